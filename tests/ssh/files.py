"""Files to be sent."""

import hashlib
import random
from pathlib import Path

from provision.core.models.staged import StagedFile


def staged(folder: Path, name: str, content: bytes) -> StagedFile:
    """A file of this machine with its record; `name` is its name on the host, and may hold folders."""
    path = folder / f"of-{name.replace('/', '-')}"
    path.write_bytes(content)
    return StagedFile(
        name=name, path=str(path), sha256=hashlib.sha256(content).hexdigest(), size=len(content), kind="wheel"
    )


def bytes_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)
