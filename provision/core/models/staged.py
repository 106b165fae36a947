"""What `stage` put ready for a host class: the lock and every file that the hosts will be sent."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from provision.core.models.base import Record
from provision.core.models.stack import Interpreter, Reason, Stack

FileKind = Literal["wheel", "interpreter", "tool", "deb", "model", "source"]


class StagedFile(Record):
    """A file on the controller, verified against its hash when it was stored."""

    name: str
    path: str
    sha256: str
    size: int
    kind: FileKind


class Staged(Record):
    hosts: tuple[str, ...]
    stack: Stack
    """The one that was really locked: the plan's first, or the next that uv could solve."""
    refused: tuple[Reason, ...] = ()
    lock: str
    """Path of the lock: a requirements file, one line a distribution, one hash each, no index address."""
    lock_digest: str
    environment: str
    """Digest that names PREFIX/envs/DIGEST: of the lock and the interpreter."""
    files: tuple[StagedFile, ...] = ()
    from_cache: bool = False
    environment_bytes: int = Field(default=0, ge=0)
    """Estimated size of the installed environment."""
    interpreter: Interpreter | None = None
    """The Stack's, with the full version of what is really staged where it is a managed one."""
    model: str | None = None
    """Name of the folder that the staged model files make; null where the model is built on the host."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it went: an extra index that did not answer and was left out."""
