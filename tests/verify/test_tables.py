"""Every key of a table that the checks name is in that table."""

import ast
from collections.abc import Iterator
from pathlib import Path

from verify.tables import table

VERIFY = Path(__file__).resolve().parents[2] / "verify"


def named_keys(source: str) -> Iterator[tuple[str, ...]]:
    """Yield (table, key, ...) for each `table("NAME")["KEY"]...` of a module, as far as the keys are constants."""
    for subscript in ast.walk(ast.parse(source)):
        keys: list[str] = []
        inner = subscript
        while isinstance(inner, ast.Subscript):
            # What stands before a computed key or a place in a list is still read.
            key = inner.slice.value if isinstance(inner.slice, ast.Constant) else None
            keys = [key, *keys] if isinstance(key, str) else []
            inner = inner.value
        if keys and isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "table":
            name = inner.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield (name.value, *keys)


NAMED = sorted({keys for path in VERIFY.rglob("*.py") for keys in named_keys(path.read_text(encoding="utf-8"))})


def test_each_key_that_a_module_names_is_in_its_table() -> None:
    assert len(NAMED) > 20
    missing = []
    for name, *keys in NAMED:
        content = table(name)
        for key in keys:
            if key not in content:
                missing.append((name, *keys))
                break
            content = content[key]
    assert not missing
