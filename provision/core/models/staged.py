"""Result of `stage` for a host class: the lock and every file for the hosts."""

from typing import Literal

from pydantic import Field

from provision.core.models.base import Record
from provision.core.models.stack import Interpreter, Reason, Stack

FileKind = Literal["wheel", "interpreter", "tool", "deb", "model", "image", "source", "cache"]


class StagedFile(Record):
    """A file on the controller, verified against its hash when it was stored."""

    name: str
    path: str
    """Empty for weights that hosts have or get themselves; their hash is that of the hub's listing."""
    sha256: str
    size: int
    kind: FileKind
    hub_path: str = ""
    """Where a hub has it, below the hub's address; empty where it is no file of a hub."""


class Staged(Record):
    hosts: tuple[str, ...]
    stack: Stack
    """The Stack that was locked: the plan's first, or the next that uv could solve."""
    refused: tuple[Reason, ...] = ()
    lock: str
    """Path of the lock: a requirements file with one distribution and one hash a line, without index addresses."""
    lock_digest: str
    environment: str
    """Digest of lock and interpreter; it names PREFIX/envs/DIGEST."""
    files: tuple[StagedFile, ...] = ()
    from_cache: bool = False
    environment_bytes: int = Field(default=0, ge=0)
    """Estimated size of the installed environment."""
    interpreter: Interpreter | None = None
    """The Stack's interpreter, with the full version of a managed one."""
    model: str | None = None
    """Folder of the staged model files; None where the model is built on the host."""
    model_on_host: str | None = None
    """Folder on the hosts that has the model's files; None where they are sent."""
    notes: tuple[str, ...] = ()
    """Remarks, such as an extra index that did not answer and was left out."""
