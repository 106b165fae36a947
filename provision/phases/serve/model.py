"""What is served: the built-in model or files of the user's, and where their proofs lie on the host."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from provision.core.models.base import Record
from provision.phases.serve.onhost.builtin_model import question

BUILTIN_NAME = "builtin-1"
"""Name and version of the built-in model: another version has other weights."""


class ServedModel(Record):
    """A model as it lies on the host."""

    kind: Literal["builtin", "files"]
    name: str
    """Folder under PREFIX/models, and the name it is served by unless the settings say otherwise."""
    attention_heads: int | None = None
    """Query heads by config.json, where known: tensor parallelism has to divide them."""

    def folder(self, prefix: str) -> str:
        return str(PurePosixPath(prefix) / "models" / self.name)


BUILTIN = ServedModel(kind="builtin", name=BUILTIN_NAME, attention_heads=8)
"""Eight, the number of its key heads: each device of a split then has its own."""


def reference_path(prefix: str, environment: str) -> str:
    """The reference answer of the built-in model to this release's question, computed in the environment of that digest.

    The question is part of the name, so that the answer to another release's is never taken for it.
    """
    return f"{BUILTIN.folder(prefix)}/reference-{environment}-{question()}.json"
