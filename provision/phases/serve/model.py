"""The served model: built-in or the user's files, and the path of its reference answer on the host."""

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from provision.core.models.base import Record
from provision.core.models.records import Task
from provision.core.models.settings import ADAPTERS
from provision.phases.serve.onhost import builtin_model, vectors

BUILTIN_NAME = "builtin-1"
"""Name and version of the built-in model; a new version has different weights."""


class ServedModel(Record):
    """A model on the host."""

    kind: Literal["builtin", "files"]
    name: str
    """Folder under PREFIX/models, and the served name unless the settings override it."""
    attention_heads: int | None = None
    """Query heads in config.json, which tensor parallelism has to divide; None where unknown."""
    task: Task = "generate"
    adapters: dict[str, int] = Field(default_factory=dict)
    """Rank of each LoRA adapter, by its name."""
    has_draft: bool = False
    """Whether a draft model for speculative decoding is among its files."""

    def folder(self, prefix: str) -> str:
        return str(PurePosixPath(prefix) / "models" / self.name)

    def adapter_folder(self, prefix: str, adapter: str) -> str:
        return f"{self.folder(prefix)}/{ADAPTERS}/{adapter}"


BUILTIN = ServedModel(kind="builtin", name=BUILTIN_NAME, attention_heads=8)
"""Eight is the number of its key heads, so that each device of a split has at least one."""


def reference_path(prefix: str, environment: str, model: ServedModel = BUILTIN) -> str:
    """Return the path of the reference answer of the built-in model, or of a user's that makes vectors, computed in the environment with that digest.

    The name includes a digest of the question, so that answers to another release's question are not used.
    """
    if model.kind == "builtin":
        return f"{model.folder(prefix)}/reference-{environment}-{builtin_model.question()}.json"
    return f"{prefix}/verify/reference-{model.name}-{environment}-{vectors.question(model.task)}.json"
