"""Files of the host, JSON documents, atomic writes, and commands whose output tells something about the host."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; empty if it cannot be read or holds something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def small_text(path: str | Path, *, limit: int = 1 << 16) -> str:
    """Return the text of a file; empty for one that is no text, has more bytes than `limit`, or cannot be read."""
    try:
        if not os.path.isfile(path):  # noqa: PTH113 - a pipe would wait for its writer
            return ""
        with open(path, "rb") as file:  # noqa: PTH123 - most are programs: only their beginning is read
            content = file.read(limit + 1)
    except OSError:
        return ""
    return "" if len(content) > limit or b"\0" in content else content.decode(errors="replace")


def read_number(path: Path) -> int | None:
    """Return the whole number in a file; None for any other content, or where it cannot be read."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Write a world-readable file atomically; create its folder if needed. Raises OSError."""
    with replaced(path) as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)


@contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that replaces the one at `path` when the block ends without an error; create its folder if needed. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def printed(command: Sequence[str], *, limit_s: float, may_fail: bool = True, **options: Any) -> str | None:
    """Return what a command prints; None where it cannot be run, does not end in time, or fails and may not.

    `options` are more arguments of subprocess.run, such as `user` and `env`.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, **options
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return str(done.stdout) if may_fail or done.returncode == 0 else None
