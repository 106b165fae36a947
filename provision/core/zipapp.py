"""Python zipapps for hosts; equal sources give equal bytes, so that a host sees no change."""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

LAUNCHER = b"#!/usr/bin/env python3\n"
MAIN = "import sys\n\nfrom {module} import {function}\n\nsys.exit({call})\n"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Earliest time that a zip file can store."""


def pack_zipapp(entries: Mapping[str, bytes], *, main: str) -> bytes:
    """Return a zipapp.

    Args:
        entries: Content of each file by its path.
        main: Call whose result is the exit code: `ready.prove:main()`.
    """
    module, _, call = main.partition(":")
    start = MAIN.format(module=module, function=call.partition("(")[0], call=call).encode()
    archive = io.BytesIO(LAUNCHER)
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        for name, content in sorted({**entries, "__main__.py": start}.items()):
            info = zipfile.ZipInfo(name, EPOCH)
            info.create_system = 3  # Unix, on every build machine
            info.external_attr = 0o644 << 16
            file.writestr(info, strip_comments(content) if name.endswith(".py") else content, zipfile.ZIP_DEFLATED, 9)
    return archive.getvalue()


def kept(target: Path, sources: Iterable[Path], build: Callable[[], bytes]) -> Path:
    """Build a program unless it and its sources are unchanged since the last build; their state is stored next to it."""
    from provision.core.run_folder import write_atomically

    noted = target.with_name(f"{target.name}.sources")
    look = repr(sorted((str(path), (stat := path.stat()).st_mtime_ns, stat.st_size) for path in sources))
    there = target.read_bytes() if target.is_file() else None
    if there is None or not noted.is_file() or noted.read_text(encoding="utf-8") != _note(there, look):
        content = build()
        if there != content:
            write_atomically(target, content, mode=0o755)
        write_atomically(noted, _note(content, look))
    return target


def _note(content: bytes, look: str) -> str:
    return f"{hashlib.sha256(content).hexdigest()} {look}"


def strip_comments(source: bytes) -> bytes:
    """Remove comments and docstrings from a Python source; every statement keeps its line.

    Tracebacks on hosts then match the repository, and less is sent: verify.pyz has 339 kB instead of 396.
    """
    lines = source.decode().splitlines(keepends=True)
    cuts = [(token.start, token.end, "") for token in _tokens(source) if token.type == tokenize.COMMENT]
    blocks = [block for node in ast.walk(ast.parse(source)) for _, block in ast.iter_fields(node)]
    for block in (block for block in blocks if isinstance(block, list)):
        texts = [statement for statement in block if _is_text(statement)]
        instead = "" if len(texts) < len(block) else '""'  # a block must have a statement
        cuts += [(*_place(lines, statement), instead) for statement in texts]
    for (first, begin), (last, end), instead in sorted(cuts, reverse=True):
        rest = lines[last - 1][end:]
        lines[first - 1] = (lines[first - 1][:begin] + instead).rstrip(" ") + ("\n" if last > first else rest)
        if last > first:
            lines[first:last] = ["\n"] * (last - first - 1) + [rest]
    return "".join(lines).encode()


def _is_text(statement: object) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _place(lines: list[str], node: ast.stmt) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return where a statement begins and ends: line and column, in characters."""
    last = node.end_lineno or node.lineno
    end = _column(lines, last, node.end_col_offset or 0)
    return (node.lineno, _column(lines, node.lineno, node.col_offset)), (last, end)


def _tokens(source: bytes) -> list[tokenize.TokenInfo]:
    return list(tokenize.tokenize(io.BytesIO(source).readline))


def _column(lines: list[str], line: int, offset: int) -> int:
    """Convert a column of `ast` (UTF-8 bytes) to characters."""
    return len(lines[line - 1].encode()[:offset].decode())
