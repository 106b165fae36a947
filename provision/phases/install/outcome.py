"""ansible-runner's events, folded into one outcome a host. Pure: an event goes in, what is known changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from provision.core.models.records import PhaseResult
from provision.phases.install.task_failure import Words, describe, describe_unreachable

_LEFT = "firstlight-left: "


@dataclass
class Outcome:
    """What is known of one host so far."""

    host: str
    task: str | None = None
    """The one it is in, or was in last."""
    seconds: float = 0.0
    """Sum of its tasks' run times."""
    changed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    """What an uninstallation leaves on the host."""
    failure: Words | None = None
    unreachable: bool = False
    finished: bool = False
    """The playbook came to its end for this host, whether well or not."""

    def started(self, task: str) -> None:
        self.task = task

    def ended(self, event: str, data: Mapping[str, Any]) -> None:
        """A task ended; `event` is the runner's name for how."""
        task, result = str(data.get("task", self.task)), data.get("res") or {}
        self.seconds += float(data.get("duration") or 0.0)
        if event == "runner_on_unreachable":
            self.unreachable = True
            self.failure = describe_unreachable(task, self.host, result)
        elif event == "runner_on_failed":
            self.failure = describe(task, self.host, result)
        elif result.get("changed"):
            self.changed.append(task)
        self.left += [line[len(_LEFT) :] for line in _lines(result) if line.startswith(_LEFT)]

    def close(self, stats: Mapping[str, Any]) -> None:
        """The playbook's own account: a failure that a rescue made good is none."""
        self.finished = any(
            self.host in stats.get(key, {}) for key in ("ok", "failures", "dark", "skipped", "processed")
        )
        if not stats.get("failures", {}).get(self.host) and not stats.get("dark", {}).get(self.host):
            self.failure = None

    def result(self, *, interrupted: bool, ended_how: str) -> PhaseResult:
        """The phase's result; `ended_how` is what ansible-playbook said when it gave no account of the host."""
        if self.failure is not None:
            return self._result("unreachable" if self.unreachable else "failed", self.failure)
        if self.finished:
            text = f"{len(self.changed)} tasks changed something" if self.changed else "nothing had to be changed"
            return self._result("ok", Words(text, None, tuple(self.left)))
        if interrupted:
            where = f"in task `{self.task}`" if self.task else "before its first task"
            hint = "run the same command again: it goes on where it stopped"
            return self._result("interrupted", Words(f"interrupted {where}", hint, ()))
        return self._result("failed", Words(f"Ansible gave no account of host {self.host}: {ended_how}", None, ()))

    def _result(self, status: Literal["ok", "failed", "unreachable", "interrupted"], words: Words) -> PhaseResult:
        return PhaseResult(
            host=self.host,
            phase="install",
            status=status,
            seconds=round(self.seconds, 3),
            changed=bool(self.changed),
            text=words.text,
            hint=words.hint,
            evidence=words.evidence,
        )


def _lines(result: Mapping[str, Any]) -> list[str]:
    stdout = result.get("stdout")
    return stdout.replace("\r\n", "\n").splitlines() if isinstance(stdout, str) else []
