"""ansible-runner's events, reduced to one outcome a host. Pure: an event goes in, the outcome changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from provision.core.models.records import PhaseResult
from provision.phases.install.task_failure import TaskReport, describe_failure, describe_unreachable

_LEFT = "firstlight-left: "


@dataclass
class HostOutcome:
    """What is known of one host so far."""

    host: str
    task: str | None = None
    """The running task, or the last one."""
    seconds: float = 0.0
    """Sum of the run times of its tasks."""
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What an uninstallation leaves on the host."""
    failure: TaskReport | None = None
    unreachable: bool = False
    finished: bool = False
    """Whether the playbook ended for this host, with or without a failure."""

    def task_started(self, task: str) -> None:
        self.task = task

    def task_ended(self, event: str, data: Mapping[str, Any]) -> None:
        """Record the end of a task; `event` is the runner's name for how it ended."""
        task, result = str(data.get("task", self.task)), data.get("res") or {}
        self.seconds += float(data.get("duration") or 0.0)
        if event == "runner_on_unreachable":
            self.unreachable = True
            self.failure = describe_unreachable(task, self.host, result)
        elif event == "runner_on_failed":
            self.failure = describe_failure(task, self.host, result)
        elif result.get("changed"):
            self.changed.append(task)
        self.left += [line[len(_LEFT) :] for line in _lines(result) if line.startswith(_LEFT)]

    def close(self, stats: Mapping[str, Any]) -> None:
        """Apply the playbook's own statistics: a failure that a rescue handled is none."""
        self.finished = any(
            self.host in stats.get(key, {}) for key in ("ok", "failures", "dark", "skipped", "processed")
        )
        if not stats.get("failures", {}).get(self.host) and not stats.get("dark", {}).get(self.host):
            self.failure = None

    def result(self, *, interrupted: bool, playbook_end: str) -> PhaseResult:
        """Return the result of the phase.

        Args:
            playbook_end: How ansible-playbook ended; reported where it gave no statistics of the host.
        """
        if self.failure is not None:
            return self._result("unreachable" if self.unreachable else "failed", self.failure)
        if self.finished:
            text = f"{len(self.changed)} tasks changed something" if self.changed else "nothing had to be changed"
            return self._result("ok", TaskReport(text, None, tuple(self.left)))
        if interrupted:
            where = f"in task `{self.task}`" if self.task else "before its first task"
            hint = "run the same command again: it continues where it stopped"
            return self._result("interrupted", TaskReport(f"interrupted {where}", hint, ()))
        text = f"Ansible returned no result for host {self.host}: {playbook_end}"
        return self._result("failed", TaskReport(text, None, ()))

    def _result(self, status: Literal["ok", "failed", "unreachable", "interrupted"], found: TaskReport) -> PhaseResult:
        return PhaseResult(
            host=self.host,
            phase="install",
            status=status,
            seconds=round(self.seconds, 3),
            changed=bool(self.changed),
            text=found.text,
            hint=found.hint,
            evidence=found.evidence,
        )


def _lines(result: Mapping[str, Any]) -> list[str]:
    stdout = result.get("stdout")
    return stdout.replace("\r\n", "\n").splitlines() if isinstance(stdout, str) else []
