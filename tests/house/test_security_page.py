"""The page on security names existing tests, and at least one for every promise."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "security.md"
FILE = re.compile(r"`(tests/[\w/]+\.py)`")
FUNCTION = re.compile(r"`(test_\w+)`")


def promises() -> Iterator[tuple[str, str]]:
    """Yield the first and the last cell of each table row whose last column names tests."""
    columns: list[str] = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            columns = []
        elif not columns:
            columns = cells
        elif columns[-1] == "tested by" and set(line) - set("|-"):
            assert len(cells) == len(columns), line
            yield cells[0], cells[-1]


PROMISES = list(promises())


def test_every_table_of_guarantees_names_tests() -> None:
    text = PAGE.read_text(encoding="utf-8")
    heads = re.findall(r"^(.*)\n(?:\|---){3,}\|$", text, re.MULTILINE)
    assert heads
    assert [head for head in heads if not head.endswith("| tested by |")] == []


@pytest.mark.parametrize(("promise", "locked_by"), PROMISES, ids=[promise for promise, _ in PROMISES])
def test_every_promise_names_existing_tests(promise: str, locked_by: str) -> None:
    files = FILE.findall(locked_by)
    assert files, promise
    text = "".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    missing = [name for name in FUNCTION.findall(locked_by) if f"def {name}(" not in text]
    assert missing == []
