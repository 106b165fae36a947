"""What the first users were promised, and what shows it: `python -m benchmarks.promises` prints a table of promises.toml."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from provision.core.tables import build_row, rows_of

_HEAD = """# Promises to the first users

Each promise of `benchmarks/promises.toml` with the command that shows it, the newest kept figure of `benchmarks/results/`, where it was measured, and the tests that hold it.
"""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Numbers of a kept result; promises.toml explains the fields."""

    result: str
    paths: tuple[list[str | dict[str, Any]], ...]
    text: str

    @property
    def document(self) -> dict[str, Any] | None:
        """Return the result, if one is kept."""
        return _result(self.result)

    def read(self) -> str:
        """Return the text with its numbers, fractions to four digits.

        Raises:
            KeyError: The result has nothing at a path.
        """
        found = [find(self.document, path) for path in self.paths]
        return self.text.format(*(f"{value:.4g}" if isinstance(value, float) else value for value in found))


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A row of promises.toml, which explains the fields."""

    source: str
    promise: str
    command: str
    tests: tuple[str, ...]
    figure: tuple[dict[str, Any], ...] = ()
    needs: str | None = None

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Return its numbers."""
        return tuple(build_row(Figure, row, where=f"promise `{self.promise}`") for row in self.figure)


def promises() -> tuple[Promise, ...]:
    """Return every promise, in the order of the documents."""
    return rows_of(Path(__file__).with_suffix(".toml"), "promise", Promise)


def generate() -> str:
    """Return the tables."""
    parts = [_HEAD]
    for source, rows in groupby(promises(), key=lambda row: row.source):
        head = ["promise", "command", "newest figure, and where it was measured", "held by"]
        lines = [head, ["---"] * len(head), *(_cells(row) for row in rows)]
        parts.append(
            f"\n## {source[:1].upper()}{source[1:]}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
        )
    return "".join(parts)


def find(document: Any, path: list[str | dict[str, Any]]) -> Any:
    """Return what a path of keys leads to.

    Args:
        document: The JSON of a result.
        path: Keys of mappings; a mapping itself finds the one element of a list that has its values.

    Raises:
        KeyError: A key or an element does not exist, or several elements have the values.
    """
    for key in path:
        if isinstance(key, str):
            document = document[key]
        else:
            found = [row for row in document if key.items() <= row.items()]
            if len(found) != 1:
                raise KeyError(key)
            document = found[0]
    return document


def _cells(row: Promise) -> list[str]:
    files = list(dict.fromkeys(test.partition("::")[0] for test in row.tests))
    figures = [f"{figure.read()} ({_measured_on(figure.document)})" for figure in row.figures if figure.document]
    figures += [f"needs {row.needs}"] if row.needs else []
    return [
        row.promise,
        f"`{row.command}`",
        "; ".join(figures) or "none: its tests say yes or no",
        ", ".join(f"{file}" for file in files),
    ]


def _measured_on(document: dict[str, Any]) -> str:
    machine, versions = document["machine"], document["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}"
    return f"{where}; {', '.join(f'{name} {version}' for name, version in versions.items())}; {document['at'][:10]}"


@cache
def _result(name: str) -> dict[str, Any] | None:
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


if __name__ == "__main__":
    sys.stdout.write(generate() + "\n")
