"""The files that an inventory is made of. Apart from what reads them, so that finding the kept result imports no YAML."""

from __future__ import annotations

from pathlib import Path

_VARIABLES = ("group_vars", "host_vars")


def files_of(source: Path) -> list[Path]:
    """Return every file of an inventory, including its variables."""
    roots = [source] if source.is_dir() else [source, *(source.parent / name for name in _VARIABLES)]
    files: list[Path] = []
    for root in roots:
        if root.is_dir():
            files += sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
        elif root.exists():
            files.append(root)
    return files


def is_variables(file: Path, source: Path) -> bool:
    """Return whether a file contains variables, not groups."""
    base = source if source.is_dir() else source.parent
    return any(part in _VARIABLES for part in file.relative_to(base).parts[:-1])
