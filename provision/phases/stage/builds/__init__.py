"""The forge: the separately installed extension package of a Stack, taken as published or built from its source, once for its key.

`provide` is the room's door; `artifacts.stage` calls it through the pipeline, which alone knows both.
"""
