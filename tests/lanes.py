"""The division of the tests among processes: those on test hosts run in one, those of each other folder in one."""

from __future__ import annotations

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

FLEET = "tests/fleet"


def lane(path: str) -> str:
    """Return the lane of a test file: its folder, by its path from the root of the repository."""
    return "/".join(Path(path).parts[:2])


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other; the lane of the test hosts, the longest, comes first."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: object) -> None:
        if FLEET in self.workqueue:
            self.workqueue.move_to_end(FLEET, last=False)
        super()._assign_work_unit(node)
