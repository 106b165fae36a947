"""`python -m provision`: what the launcher runs."""

import atexit
import gc
import os
import sys
from types import ModuleType

from provision.core.module_index import use_index

# Most commands live for a second, a third of it imports. Collecting cycles every 700 objects takes 0.1 s of that and finds nothing;
# a run of hours still collects, less often.
gc.set_threshold(200_000)

index = use_index()


class NoPlugins(ModuleType):
    """In place of pydantic's search for plugins in the metadata of installed distributions: its import takes 0.01 s, and there are none."""

    get_plugins = staticmethod(tuple)


sys.modules["pydantic.plugin._loader"] = NoPlugins("pydantic.plugin._loader")

ended: list[int] = []


def leave() -> None:
    """End after a command that has ended in order. Taking every module apart would take 0.02 to 0.05 s for what the system frees anyway."""
    if not ended:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the interpreter says it
            return
    if index is not None:
        index.keep()
    os._exit(ended[0])


# What is registered first is called last: after all that others have to do at the end.
atexit.register(leave)

from provision.cli.main import main  # noqa: E402 - what is set above has to hold while it imports

if __name__ == "__main__":
    try:
        main()
    except SystemExit as how:
        if how.code is None or isinstance(how.code, int):
            ended.append(how.code or 0)
        raise
