"""The division of the tests among processes: each takes one lane of tests after the other.

A lane is a folder of tests, whose fixtures are then made once. Tests on hosts are slower: a file whose tests boot hosts of their own is a
lane. The files whose tests share the two hosts of the fixture `pair` are one.
"""

import functools
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

FLEET = "tests/fleet"
_ROOT = Path(__file__).resolve().parents[1]
_LONGEST = (
    # tests/verify makes an environment of vLLM: it begins when the files of `cards` are about to go.
    *("tests/pipeline", "tests/verify"),
    *(
        f"{FLEET}/test_{name}.py"
        for name in (
            *("watchdog", "span", "faults", "releases", "real_drivers", "drivers"),
            *("gateway", "roles", "user", "monitoring"),
        )
    ),
    *("tests/inventory", "tests/install", "tests/features/multinode", "tests/house", "tests/report"),
    *("tests/stage", "tests/plan", "tests/serve", "tests/doctor", "tests/family"),
)
"""The longest lanes, about the longest first: no process waits for one at the end. Those of `LARGE` come before."""
LARGE = tuple(
    f"{FLEET}/test_{name}.py"
    for name in (
        *("cards", "containers", "provision", "services", "default_index"),
        *("span_ray", "collection", "newcomer", "bundle", "tool", "given_wheel"),
    )
)
"""Lanes that fill the disk, the largest first: `cards` takes 17 GB, `containers` and `provision` eight, `given_wheel` three. One at a time runs,
from the beginning."""


@functools.cache
def lane(path: str) -> str:
    """Return the lane of a test file, by its path from the root of the repository."""
    folder = Path(path).parent.as_posix()
    if folder != FLEET:
        return folder
    return FLEET if re.search(r"\bpair\b", (_ROOT / path).read_text(encoding="utf-8")) else path


def rank(path: str) -> tuple[int, bool]:
    """Return the place of a test file in the order of all: the longest lanes, the others on hosts, and at last the shortest, which need none."""
    place = lane(path)
    return _LONGEST.index(place) if place in _LONGEST else len(_LONGEST), not path.startswith(f"{FLEET}/")


def next_lane(running: Collection[str], waiting: Iterable[str]) -> str:
    """Return a large lane that waits where none runs, else that of the shared hosts, the longest, else the first of the others."""
    lanes = [*waiting]
    large = [place for place in LARGE if place in lanes]
    others = [place for place in lanes if place not in large]
    if large and not (others and any(place in LARGE for place in running)):
        return large[0]
    return FLEET if FLEET in others else others[0]


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: object) -> None:
        running = {
            place
            for other, units in self.assigned_work.items()
            for place, unit in units.items()
            if other is not node and not all(unit.values())
        }
        self.workqueue.move_to_end(next_lane(running, self.workqueue), last=False)
        super()._assign_work_unit(node)
