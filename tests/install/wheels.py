"""Tiny wheels, so that a real environment is installed from real files within a second."""

import hashlib
from pathlib import Path

from tests.stage.site import make_wheel


def build_wheel(
    folder: Path,
    name: str,
    version: str,
    files: dict[str, str] | None = None,
    entry_points: str = "",
    *,
    requires: str = "",
) -> Path:
    """A pure wheel with the given files, else with a module that has its `VERSION`; returns its path."""
    more = files or {f"{name}/__init__.py": f"VERSION = {version!r}\n"}
    if entry_points:
        more = {**more, f"{name}-{version}.dist-info/entry_points.txt": entry_points}
    file, content = make_wheel(name, version, requires=(requires,) if requires else (), more=more)
    (folder / file).write_bytes(content)
    return folder / file


def lock_of(wheels: list[Path]) -> str:
    """A lock as `stage` writes it: one line a distribution, one hash each."""
    lines = []
    for wheel in sorted(wheels):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n")
    return "".join(lines)
