"""Which tests run in one process where the suite has several: those on hosts, and those of each folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
HOSTS = "hosts"
MARK = "pytest.mark.fleet"


@cache
def lane(path: str) -> str:
    """The lane of a test file, by its path from the root of the repository."""
    if MARK in (ROOT / path).read_text(encoding="utf-8"):
        return HOSTS
    return "/".join(Path(path).parts[:2])


class Lanes(LoadScopeScheduling):  # type: ignore[misc]
    """Gives each process one lane after the other, the longest, that of the hosts, first."""

    def _split_scope(self, nodeid: str) -> str:
        return lane(nodeid.partition("::")[0])

    def _assign_work_unit(self, node: object) -> None:
        if HOSTS in self.workqueue:
            self.workqueue.move_to_end(HOSTS, last=False)
        super()._assign_work_unit(node)
