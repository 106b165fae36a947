"""A program for hosts is packed from the repository's statements, on the same lines."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from provision.core.zipapp import kept, strip_comments

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def statements(source: bytes) -> list[str]:
    """Return each statement with its line and its own expressions, except bare strings."""
    found = []
    for node in ast.walk(ast.parse(source)):
        is_text = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if isinstance(node, ast.stmt) and not is_text:
            own = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
            found.append(f"{node.lineno} {type(node).__name__} {[ast.dump(child) for child in own]}")
    return found


def test_each_statement_stays_unchanged_on_its_line() -> None:
    sources = [path for folder in ("verify", "provision/phases/serve/onhost") for path in (ROOT / folder).rglob("*.py")]
    assert sources
    for path in sources:
        source = path.read_bytes()
        assert statements(strip_comments(source)) == statements(source), path


def test_comments_and_docstrings_are_removed_and_similar_text_stays() -> None:
    source = '''"""Über.

Zwei."""
x = "# no comment"  # a comment
s = """kept
# kept"""
class A:  # ü
    """Doc ü."""  # more
    y = 1
    """About y."""
def f(): """only"""
'''
    packed = strip_comments(source.encode()).decode()
    assert packed == '\n\n\nx = "# no comment"\ns = """kept\n# kept"""\nclass A:\n\n    y = 1\n\ndef f(): ""\n'


def test_a_kept_program_is_built_again_when_it_or_a_source_changed(tmp_path: Path) -> None:
    source, target, built = tmp_path / "a.py", tmp_path / "a.pyz", []

    def build() -> bytes:
        built.append(1)
        return b"program"

    source.write_text("x = 1")
    for _ in range(2):
        assert kept(target, [source], build).read_bytes() == b"program"
    assert len(built) == 1
    target.write_bytes(b"another")
    assert kept(target, [source], build).read_bytes() == b"program"
    source.write_text("x = 11")
    kept(target, [source], build)
    assert len(built) == 3
