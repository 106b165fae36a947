"""Levels of the suite: quick by default, everything with `--all`, and the part of the long tests that a day has.

`long` marks tests that take a minute or more and seldom fail. A run with `--long-share today` runs one part of them: each has its turn every PARTS days.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pytest

from tests.lanes import LARGE, lane

PARTS = 6
"""With a third of the long tests, a run took 32 to 52 minutes on two cores, by how fast they are, and with a fifth 26 to 41; the limit is 40."""
TODAY = "today"
USUAL_S = 20.0
"""Seconds of a turn whose marker names none."""
SAME_LANE = 1.25
"""How much seconds of the same lane count where turns are dealt out: as little as spreads the longest lanes."""
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


@dataclass(frozen=True)
class Turn:
    """What runs together: a long test, a file that is long as a whole, or tests whose markers have the same name."""

    name: str
    seconds: float
    """About how long it takes on two cores, as the marker says."""
    lane: str
    """The lane of its tests (tests/lanes.py), which run one after the other."""


def turn_of(item: pytest.Item) -> Turn | None:
    """Return the turn of a long test; None for tests that are not long."""
    for node, marker in item.iter_markers_with_node("long"):
        name = str(marker.args[0]) if marker.args else item.nodeid if node is item else node.nodeid
        return Turn(name, float(marker.kwargs.get("seconds", USUAL_S)), lane(item.nodeid.partition("::")[0]))
    return None


def leave_out(items: list[pytest.Item], share: int) -> list[pytest.Item]:
    """Return the long tests that have no turn in a share.

    Turns are dealt out each to the shortest share, in which those of the same lane count more: no share gets all tests that run one after the
    other. First those of lanes that wait for one another (LARGE), then the others, and of each kind the longest first.
    """
    turns = {item: turn for item in items if (turn := turn_of(item))}
    shares: list[set[Turn]] = [set() for _ in range(PARTS)]
    for turn in sorted(set(turns.values()), key=lambda turn: (turn.lane not in LARGE, -turn.seconds, turn.name)):

        def length(those: set[Turn], own: str = turn.lane) -> float:
            return sum(one.seconds * (SAME_LANE if one.lane == own else 1.0) for one in those)

        min(shares, key=length).add(turn)
    return [item for item, turn in turns.items() if turn not in shares[share]]
