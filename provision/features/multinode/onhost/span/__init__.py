"""The host's part of a model that is served by several hosts: span.pyz."""
