"""`./firstlight docs`: writes all generated pages, tables and schemas.

A module in `docs/generators/` has

- `TARGET`, the path of the file that it writes, from the root of the repository,
- `TABLE`, only if it writes a table and not the whole file: the name of the table's place in the file, which is between
  `<!-- NAME: begin -->` and `<!-- NAME: end -->`,
- `generate()`, which returns the text.
"""

from __future__ import annotations

import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from docs import generators

ROOT = Path(__file__).resolve().parents[1]


def find_generators() -> Iterator[ModuleType]:
    """Yield all generators, sorted by name."""
    for module in pkgutil.iter_modules(generators.__path__, f"{generators.__name__}."):
        yield import_module(module.name)


def current_text(generator: ModuleType, text: str) -> str:
    """Return the text that a generator's file should have.

    Args:
        generator: A module of `docs/generators/`.
        text: The text that the file has.

    Raises:
        ValueError: The file does not have exactly one place for the generator's table.
    """
    table: str | None = getattr(generator, "TABLE", None)
    generated: str = generator.generate()
    return generated if table is None else replace_table(text, table, generated)


def replace_table(text: str, name: str, table: str) -> str:
    """Return a page with a table at its place. Raises ValueError unless there is exactly one place."""
    pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
    replaced, count = re.subn(pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"the page has {count} places for the table `{name}`, not 1")
    return replaced


def main() -> int:
    """Write every file that is not current, and print its path."""
    for generator in find_generators():
        path = ROOT / generator.TARGET
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        new = current_text(generator, old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"wrote {generator.TARGET}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
