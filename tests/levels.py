"""Levels of the suite: quick by default, everything with `--all`, and the third of the long tests that a day has.

`long` marks tests that take both cores for minutes. A run with `--long-share today` runs a third of them: each has its turn every three days.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import pytest

PARTS = 3
TODAY = "today"
QUICK = ("-m", "not slow")
"""What `./firstlight test` runs: no hosts, no root, no OS packages; at most 3 minutes on two cores after set-up."""


def arguments_of(words: Sequence[str]) -> tuple[list[str], bool]:
    """Return pytest's arguments, and whether missing OS packages are to be installed first.

    Args:
        words: Arguments of `./firstlight test`. Without `--all`, and without paths, expressions or markers of its own, the run is quick.
    """
    rest = [word for word in words if word != "--all"]
    chosen = any(word.startswith(("tests", "./tests", "-m", "-k", "/")) for word in rest)
    if len(rest) < len(words) or chosen:
        return rest, True
    return [*QUICK, *rest], False


def share_of(text: str, day: datetime) -> int | None:
    """Return the part of the long tests that runs; None for all of them.

    Args:
        text: `all`, `today`, or a part's number from 0.
        day: The day of the run.

    Raises:
        ValueError: The text is none of these.
    """
    if text == "all":
        return None
    number = day.toordinal() % PARTS if text == TODAY else int(text)
    if number not in range(PARTS):
        raise ValueError(f"{number} is no part of {PARTS}")
    return number


def turn_of(item: pytest.Item) -> str | None:
    """Return the name under which a long test has its turn; None for tests that are not long.

    Tests that continue each other have it together: all of a file that is long as a whole, and those whose marker has the same name.
    """
    for node, marker in item.iter_markers_with_node("long"):
        return str(marker.args[0]) if marker.args else item.nodeid if node is item else node.nodeid
    return None


def leave_out(items: list[pytest.Item], share: int) -> list[pytest.Item]:
    """Return the long tests that have no turn in a share. Their names in alphabetical order are dealt out to the shares."""
    names = {item: name for item in items if (name := turn_of(item))}
    having = set(sorted(set(names.values()))[share::PARTS])
    return [item for item, name in names.items() if name not in having]
