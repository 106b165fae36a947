"""What a task did to a host, as evidence: the command, its exit code, what it said."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from provision.install.playbook import PLAYBOOKS

_NOT_ARGUMENTS = frozenset({"stdin", "_raw_params", "_uses_shell", "argv"})
"""Of commands only: they stand in the command itself, or are what it reads."""


def described(event: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """A task that changed its host, or failed and may have; null for one that did not. `event` is the runner's name."""
    result = data.get("res") or {}
    is_change = event == "runner_on_ok" and bool(result.get("changed"))
    if not is_change and event not in ("runner_on_failed", "runner_on_unreachable"):
        return None
    return {
        "role": data.get("role"),
        "task": data.get("task"),
        "module": data.get("resolved_action") or data.get("task_action"),
        "source": _source(str(data.get("task_path") or "")),
        "command": _command(data, result),
        "changed": True if is_change else None,
        "exit_code": result["rc"] if isinstance(result.get("rc"), int) else None,
        "seconds": round(float(data.get("duration") or 0.0), 3),
        "output": _output(result),
    }


def _command(data: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The command that ran; of a module that is none, its arguments."""
    command = result.get("cmd")
    if isinstance(command, list):
        return shlex.join(map(str, command))
    if isinstance(command, str) and command:
        return command
    arguments = (result.get("invocation") or {}).get("module_args")
    if isinstance(arguments, Mapping):
        return " ".join(
            f"{name}={shlex.quote(str(value))}"
            for name, value in arguments.items()
            if value is not None and name not in _NOT_ARGUMENTS
        )
    return _written(str(data.get("task_path") or ""), str(data.get("task")))


def _source(task_path: str) -> str | None:
    """Where the task stands, from the product's folder: `playbooks/roles/base/tasks/10_prepare.yml:3`."""
    name, _, line = task_path.rpartition(":")
    if not name or not Path(name).is_relative_to(PLAYBOOKS):
        return None
    return f"{Path(name).relative_to(PLAYBOOKS.parent)}:{line}"


def _written(task_path: str, task: str) -> str:
    """A raw task's command as the role has it: Ansible tells nothing of one. Its variables stand in install/hosts.yml."""
    file = task_path.rpartition(":")[0]
    tasks = _tasks(file) if _source(task_path) else ()
    return next((str(entry["ansible.builtin.raw"]) for entry in tasks if entry.get("name") == task), "")


@cache
def _tasks(file: str) -> tuple[dict[str, Any], ...]:
    written = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return tuple(entry for entry in written if "ansible.builtin.raw" in entry)


def _output(result: Mapping[str, Any]) -> str:
    """All that it said, in the order of stdout, stderr, message."""
    said = (result.get(key) for key in ("stdout", "module_stdout", "stderr", "module_stderr", "msg"))
    return "\n".join(text.strip() for text in said if isinstance(text, str) and text.strip())
