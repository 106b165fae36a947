"""Hand-written pages: each link leads to a file and a heading, each command of the product parses, each page is in the index."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from docs.generate import ROOT
from tests.docs.commands import parse

PAGES = sorted(
    [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")]
    + list((ROOT / "docs").rglob("*.md"))
)
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:[ >]*|.* && )\./firstlight +(.+)$", re.MULTILINE)
INLINE = re.compile(r"`\./firstlight +([^`]+)`")
LAUNCHER = {"test", "docs", "COMMAND"}
"""What the launcher does itself, and a placeholder for any command."""


@cache
def anchors(path: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text)}


def broken_links(path: Path) -> Iterator[str]:
    """Yield each link that leads nowhere."""
    for target, anchor in LINK.findall(FENCE.sub("", path.read_text(encoding="utf-8"))):
        file = (path.parent / target).resolve() if target else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            yield f"{target}#{anchor}" if anchor else target


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command that a page shows whole: no synopsis with choices or gaps, no name of a command alone."""
    joined = re.sub(r"\\\n *", "", text)
    whole = LINE.findall(joined) + [found for found in INLINE.findall(joined) if " -" in found or "'" in found]
    for line in whole:
        if not any(sign in line for sign in ("[", "...", " | ", "<", "`")):
            words = shlex.split(line, comments=True)
            if words[0] not in LAUNCHER:
                yield words


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    assert list(broken_links(path)) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_command_of_a_page_is_accepted(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return
    refused = []
    for words in commands(path.read_text(encoding="utf-8")):
        try:
            parse(words)
        except BaseException as error:  # noqa: BLE001 - a usage error of any kind, SystemExit too
            refused.append(f"./firstlight {' '.join(words)}: {error!r}")
    assert refused == []


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for target, _ in LINK.findall(index.read_text(encoding="utf-8"))}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if path != index}
    assert {str(path.relative_to(ROOT)) for path in pages - linked} == set()


@pytest.mark.parametrize("text", ["`./firstlight nothing -x`", "    ./firstlight plan --nothing x    # words"])
def test_a_command_that_does_not_exist_is_noticed(text: str) -> None:
    (words,) = commands(text)
    with pytest.raises(BaseException, match="nothing"):
        parse(words)
