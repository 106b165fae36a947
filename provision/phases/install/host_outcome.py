"""ansible-runner's events, reduced to one outcome a host, and to what each task did there, as evidence. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from provision.core.models.records import PhaseResult
from provision.core.redaction import MASK
from provision.core.tables import own_table
from provision.phases.install.playbook import PLAYBOOKS

_LEFT = "firstlight-left: "
_NOT_ARGUMENTS = frozenset({"stdin", "_raw_params", "_uses_shell", "argv"})
"""Arguments of `command` that are shown in the command, or are its input."""
_LISTS = ("paths", "files", "actions", "changes")
"""Results of our own modules that list what changed."""
ARGUMENT_AT_MOST = 400
"""Characters; arguments may hold whole files and scripts."""


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
        lines = str(result.get("stdout", "")).splitlines()
        self.left += [line.removeprefix(_LEFT) for line in lines if line.startswith(_LEFT)]

    def close(self, stats: Mapping[str, Any]) -> None:
        """Apply the playbook's own statistics: a failure that a rescue handled is none."""
        self.finished = any(
            self.host in stats.get(key, {}) for key in ("ok", "failures", "dark", "skipped", "processed")
        )
        if not stats.get("failures", {}).get(self.host) and not stats.get("dark", {}).get(self.host):
            self.failure = None

    def result(self, command: str = "", *, interrupted: bool, playbook_end: str) -> PhaseResult:
        """Return the result of the phase.

        Args:
            command: What the person typed after `./firstlight`.
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
            if command.split()[:1] == ["rollback"]:  # once more, it may return to the release that this one left
                hint = "./firstlight status names the live release; to go on to another, name it: ./firstlight rollback --to DIGEST"
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


TABLE = Path(__file__).with_name("known_failures.toml")

_CAUSE = re.compile(r"^\s*(error:|fatal:|E:|\u00d7|Caused by|╰─▶|\w*(Error|Exception):)", re.IGNORECASE)
"""Lines that programs (apt, uv, Python) mark as the cause."""
_LIKELY = re.compile(r"\b(cannot|failed|refused|denied|too quickly)\b|\bstatus=(?!0/)\d+/", re.IGNORECASE)
"""Words of a failure; also how systemd gives the status of a program that ended."""
_OWN_ERROR = re.compile(r"^(?:firstlight-error|preflight refuses): (.+?)\s*$", re.MULTILINE)
_OWN_HINT = re.compile(r"^firstlight-hint: (.+?)\s*$", re.MULTILINE)
_NOISE = ("Shared connection to ", "non-zero return code")
"""Lines that ssh and Ansible add to every failure."""
_HINT = "see install/ansible.log in the folder of the run"
LINES_AT_MOST = 4
EVIDENCE_AT_MOST = 20


@dataclass(frozen=True)
class TaskReport:
    """What is reported of a host: a sentence, a hint, and the lines that they rest on."""

    text: str
    hint: str | None
    evidence: tuple[str, ...]


def _outputs(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the task's outputs. Ansible's generic `msg` comes last: any output says more."""
    for key in ("stderr", "module_stderr", "stdout", "module_stdout", "msg"):
        value = result.get(key)
        if isinstance(value, str) and value.strip():
            yield value.replace("\r\n", "\n").strip()


def _causes(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if _CAUSE.match(line)][-LINES_AT_MOST:]


def _decisive(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    likely = [line for line in lines if _LIKELY.search(line)]
    return _causes(text) or likely[-LINES_AT_MOST:] or lines[-LINES_AT_MOST:]


def describe_failure(task: str, host: str, result: Mapping[str, Any]) -> TaskReport:
    """Describe the failure of a task on a host by its result, to which our own modules add a `hint`.

    The errors of our own scripts and modules come first, with their causes; without any, the lines that look decisive.
    """
    outputs = list(_outputs(result))
    whole = "\n".join(outputs)
    own = _OWN_ERROR.findall(whole) if result.get("hint") is None else [str(result.get("msg"))]
    said = [*own, *_causes(whole)] if own else _decisive(outputs[0]) if outputs else ["no reason was given"]
    code = f" (exit code {result['rc']})" if not own and isinstance(result.get("rc"), int) else ""
    lines = [line for line in whole.splitlines() if line.strip() and not line.startswith(_NOISE)]
    return TaskReport(
        text=f"task `{task}` failed on host {host}{code}: {'; '.join(dict.fromkeys(said))}",
        hint=result.get("hint") or next(iter(_OWN_HINT.findall(whole)), None) or _known(whole) or _HINT,
        evidence=tuple(lines[-EVIDENCE_AT_MOST:]),
    )


def _known(text: str) -> str | None:
    rows = own_table(TABLE)["failure"]
    return next((row["hint"] for row in rows if re.search(row["pattern"], text, re.IGNORECASE)), None)


def describe_unreachable(task: str, host: str, result: Mapping[str, Any]) -> TaskReport:
    """Describe a host that Ansible could not reach, or that stopped answering."""
    message = str(result.get("msg", "no reason was given")).strip()
    return TaskReport(
        text=f"host {host} could not be reached for task `{task}`: {' '.join(_decisive(message))}",
        hint=_known(message) or "run ./firstlight provision again: it continues where it stopped",
        evidence=tuple(message.splitlines()[-EVIDENCE_AT_MOST:]),
    )


def describe_change(event: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe a task that changed its host, or may have changed it, by the event of its end; None for another one.

    `changed` is None for a task that failed, and for one whose result Ansible hides.
    """
    result = data.get("res") or {}
    is_hidden = "censored" in result
    is_change = event == "runner_on_ok" and bool(result.get("changed"))
    may_be = event in ("runner_on_failed", "runner_on_unreachable") or (event == "runner_on_ok" and is_hidden)
    if not is_change and not may_be:
        return None
    loop = [item for item in result.get("results") or () if isinstance(item, Mapping)]
    items = [item for item in loop if item.get("changed") or item.get("failed") or item.get("unreachable")]
    parts: list[Mapping[str, Any]] = items or [result]
    codes = [part["rc"] for part in parts if isinstance(part.get("rc"), int)]
    return {
        "role": data.get("role"),
        "task": data.get("task"),
        "module": data.get("resolved_action") or data.get("task_action"),
        "source": _source(str(data.get("task_path") or "")),
        "command": MASK if is_hidden else "\n".join(_command(part) for part in parts),
        "changed": True if is_change else None,
        "exit_code": next((code for code in codes if code), codes[0] if codes else None),
        "seconds": round(float(data.get("duration") or 0.0), 3),
        "output": MASK if is_hidden else "\n".join(filter(None, map(_output, parts))),
    }


def _command(result: Mapping[str, Any]) -> str:
    """Return the command that ran; for a module that runs none, its arguments. Of a raw task, Ansible reports nothing."""
    command = result.get("cmd")
    if isinstance(command, list):
        return shlex.join(_shortened(str(word)) for word in command)
    if isinstance(command, str) and command:
        return command
    arguments = (result.get("invocation") or {}).get("module_args")
    if isinstance(arguments, Mapping):
        return " ".join(
            f"{name}={shlex.quote(_shortened(str(value)))}"
            for name, value in arguments.items()
            if value is not None and name not in _NOT_ARGUMENTS
        )
    return ""


def _shortened(value: str) -> str:
    return value if len(value) <= ARGUMENT_AT_MOST else f"{value[:ARGUMENT_AT_MOST]}... ({len(value)} characters)"


def _source(task_path: str) -> str | None:
    """Return where the task is, from the product's folder: `playbooks/roles/base/tasks/10_prepare.yml:3`."""
    name, _, line = task_path.rpartition(":")
    if not name or not Path(name).is_relative_to(PLAYBOOKS):
        return None
    return f"{Path(name).relative_to(PLAYBOOKS.parent)}:{line}"


def _output(result: Mapping[str, Any]) -> str:
    """Return the whole output: stdout, stderr, message, then what our own modules list."""
    texts = [result.get(key) for key in ("stdout", "module_stdout", "stderr", "module_stderr", "msg")]
    for key in _LISTS:
        listed = result.get(key)
        texts += listed if isinstance(listed, list) else []
    return "\n".join(text.strip() for text in texts if isinstance(text, str) and text.strip())
