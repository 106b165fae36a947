"""The source of a user's module with its attention upgraded: text in, text out, and the model that the new text builds."""

import ast
import difflib
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

ORIGINAL = "torch.nn.MultiheadAttention"
UPGRADED = "FlashMultiheadAttention"
IMPORT = f"from verify.attention import {UPGRADED}\n"


class UnusableError(Exception):
    """The factory returned nothing that can be upgraded; the message says what is missing."""


def upgraded_source(text: str, *, discard_weights: bool = False) -> str:
    """Return a module's source in which calls of torch.nn.MultiheadAttention build a FlashMultiheadAttention.

    Base classes stay, because a subclass may change the meaning. The text is returned as it is where nothing is to be replaced.
    With `discard_weights` the upgraded layers return None in place of attention weights.
    """
    tree = ast.parse(text)
    names = dict(_imported(tree))
    built = f"{UPGRADED}.without_weights" if discard_weights else UPGRADED
    found = [
        node.func for node in ast.walk(tree) if isinstance(node, ast.Call) and _meaning(node.func, names) == ORIGINAL
    ]
    if not found:
        return text
    lines = _replaced(text, found, built)
    heading = tree.body[:1] if ast.get_docstring(tree) is not None else []
    heading += [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    lines.insert(max((node.end_lineno or 0 for node in heading), default=0), IMPORT.encode())
    return b"".join(lines).decode()


def _replaced(text: str, nodes: Iterable[ast.expr], new: str) -> list[bytes]:
    """Return the lines of a text in which expressions of one line are replaced. Columns of the syntax tree count bytes."""
    lines = text.encode().splitlines(keepends=True)
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if node.end_lineno == node.lineno:
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line[: node.col_offset] + new.encode() + line[node.end_col_offset :]
    return lines


def difference(path: Path, text: str) -> str:
    """Return the change of a file as a unified diff."""
    before = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, text.splitlines(keepends=True), str(path), str(beside(path))))


def beside(path: Path) -> Path:
    """Return where the upgraded module is written."""
    return path.with_name(f"{path.stem}_flash.py")


def module_of(path: Path, text: str) -> types.ModuleType:
    """Return the module that a text would be at a path; nothing is written."""
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own module, which was imported before
    return module


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield each name that the module imports, with what it stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                first = name.name.partition(".")[0]
                yield (name.asname, name.name) if name.asname else (first, first)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for name in node.names:
                yield name.asname or name.name, f"{node.module}.{name.name}"


def _meaning(node: ast.expr, names: dict[str, str]) -> str | None:
    """Return the full name of what an expression such as `nn.MultiheadAttention` stands for."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _meaning(node.value, names)
        return f"{owner}.{node.attr}" if owner else None
    return None
