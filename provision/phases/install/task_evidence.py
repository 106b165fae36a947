"""What a task did to a host, as evidence: the command, its exit code, its output."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from provision.core.redaction import MASK
from provision.phases.install.playbook import PLAYBOOKS

RAW = "ansible.builtin.raw"
_NOT_ARGUMENTS = frozenset({"stdin", "_raw_params", "_uses_shell", "argv"})
"""Arguments of `command` that are shown in the command, or are its input."""
_LISTS = ("paths", "files", "actions", "changes")
"""Results of our own modules that list what changed."""
ARGUMENT_AT_MOST = 400
"""Characters; arguments may hold whole files and scripts."""


def describe_change(event: str, data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe a task that changed its host, or may have changed it, by the runner's event of its end; None for one that changed nothing.

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
        "command": MASK if is_hidden else "\n".join(_command(data, part) for part in parts),
        "changed": True if is_change else None,
        "exit_code": next((code for code in codes if code), codes[0] if codes else None),
        "seconds": round(float(data.get("duration") or 0.0), 3),
        "output": MASK if is_hidden else "\n".join(filter(None, map(_output, parts))),
    }


def _command(data: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return the command that ran; for a module that runs none, its arguments."""
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
    path = str(data.get("task_path") or "")
    if data.get("task_action") == RAW and _source(path):
        return _raw_commands(path.rpartition(":")[0]).get(str(data.get("task")), "")
    return ""


def _shortened(value: str) -> str:
    return value if len(value) <= ARGUMENT_AT_MOST else f"{value[:ARGUMENT_AT_MOST]}... ({len(value)} characters)"


def _source(task_path: str) -> str | None:
    """Return where the task is, from the product's folder: `playbooks/roles/base/tasks/10_prepare.yml:3`."""
    name, _, line = task_path.rpartition(":")
    if not name or not Path(name).is_relative_to(PLAYBOOKS):
        return None
    return f"{Path(name).relative_to(PLAYBOOKS.parent)}:{line}"


@cache
def _raw_commands(file: str) -> dict[str, str]:
    """Return the commands of raw tasks, by name, as their role has them: Ansible reports none. Their variables are in install/PLAYBOOK.yml."""
    entries = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    return {str(entry.get("name")): str(entry[RAW]) for entry in entries if RAW in entry}


def _output(result: Mapping[str, Any]) -> str:
    """Return the whole output: stdout, stderr, message, then what our own modules list."""
    texts = [result.get(key) for key in ("stdout", "module_stdout", "stderr", "module_stderr", "msg")]
    for key in _LISTS:
        listed = result.get(key)
        texts += listed if isinstance(listed, list) else []
    return "\n".join(text.strip() for text in texts if isinstance(text, str) and text.strip())
