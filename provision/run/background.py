"""Work on hosts that overlaps phases, and what it tells the phases that run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from provision.core.models.inventory import Host
from provision.core.models.staged import StagedFile


class BackgroundTask(Protocol):
    """Work on hosts that overlaps phases."""

    def wait(self) -> None:
        """Wait for its end, and record what failed."""

    def stop(self) -> None:
        """End it in order; do nothing when it has ended."""


class FileListener(Protocol):
    """Receives each file as soon as `stage` has it."""

    def callback(self, hosts: Sequence[Host]) -> Callable[[StagedFile, int], None] | None:
        """Return what to call with a file for these hosts, and the bytes of all files; None where nobody waits for them."""


@dataclass
class Background:
    """The background tasks of a run, or of one batch of it."""

    tasks: dict[str, BackgroundTask] = field(default_factory=dict)
    file_listener: FileListener | None = None
    package_sources: dict[str, bool | None] | None = None
    """By host that lacks OS packages: whether its package sources answer, None where that is unknown. None before it was asked."""

    def wait_for(self, name: str) -> None:
        """Wait for a task, where it was started."""
        if name in self.tasks:
            self.tasks[name].wait()

    def stop(self) -> None:
        """End all tasks, so that sessions are free."""
        for task in reversed(self.tasks.values()):
            task.stop()
