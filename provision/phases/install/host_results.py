"""The install phase: targets in, one result a host out, every task recorded in the run's folder."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provision.core.files import write_atomically
from provision.core.models.inventory import Connection
from provision.core.models.records import PhaseResult
from provision.core.run_folder import RunFolder, utc_now
from provision.core.scratch import scratch_folder
from provision.fleet.ssh.sudo import become_password
from provision.phases.install.host_outcome import HostOutcome, describe_change
from provision.phases.install.hosts_file import Progress, Target, memory_file, render, render_secrets
from provision.phases.install.playbook import Cancellation, remembered_signals, run_playbook

TASKS_FILE = "install/tasks.jsonl"
LOG_FILE = "install/ansible.log"

_VALIDATION = "Validating arguments against arg spec"
"""Ansible's own first task of each role: reported only when it fails."""
_ENDINGS = frozenset({"runner_on_ok", "runner_on_failed", "runner_on_unreachable", "runner_on_skipped"})


def install(
    run: RunFolder,
    targets: Sequence[Target],
    *,
    playbook: str = "install",
    command: str = "",
    tags: Sequence[str] = (),
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, PhaseResult]:
    """Run a playbook on all targets at once; a host that fails stops no other.

    Writes install/PLAYBOOK.yml, install/tasks.jsonl and install/ansible.log into the run's folder. Each task that changed a
    host, or failed, is added to changes.jsonl as soon as it ends.

    In the main thread, Ctrl-C, SIGTERM and SIGHUP end the playbook in order, and the results are `interrupted`.

    Args:
        run: The run that records it.
        playbook: Name of a file in playbooks/, without its suffix.
        command: What the person typed after `./firstlight`; what an interruption suggests depends on it.
        tags: Only tasks with one of these tags are run; all tasks where empty.
        progress: Called with host and task whenever a task starts.
        cancelled: Ends the playbook in order once it returns true.

    Returns:
        The result of each host, by name.

    Raises:
        InstallError: ansible-playbook does not exist.
        RemoteCommandError: A password file cannot be read.
    """
    if not targets:
        return {}
    path = write_hosts_file(run, targets, f"install/{playbook}.yml")
    outcomes = {target.host.name: HostOutcome(target.host.name) for target in targets}
    recorder = _Recorder(run, playbook, outcomes, progress or (lambda *_: None))
    with scratch_folder() as folder, _passwords(targets) as passwords, remembered_signals() as signalled:
        cancellation = Cancellation(lambda: signalled() or cancelled())
        playbook_end = run_playbook(
            playbook,
            [path, *passwords],
            tags=tags,
            hosts=len(targets),
            scratch=folder,
            log=run.path(LOG_FILE),
            on_event=recorder.take,
            cancellation=cancellation,
        )
    return {
        name: outcome.result(command, interrupted=cancellation.happened, playbook_end=playbook_end)
        for name, outcome in outcomes.items()
    }


def _secrets_of(connection: Connection) -> dict[str, str]:
    """Return passwords that are in no file of the user. A password file is named in hosts.yml, and Ansible reads it."""
    secrets = {}
    if connection.become_password is not None and (password := become_password(connection)):
        secrets["ansible_become_password"] = password
    if connection.password is not None:
        secrets["ansible_password"] = connection.password.get_secret_value()
    return secrets


def write_hosts_file(run: RunFolder, targets: Sequence[Target], name: str) -> Path:
    """Write an inventory of hosts and their variables into the run's folder, and return its path. Arguments of ssh may have secrets."""
    path = run.path(name)
    write_atomically(path, render(targets, path=str(path)), mode=0o600)
    return path


@contextmanager
def _passwords(targets: Sequence[Target]) -> Iterator[list[Path]]:
    """Provide the inventory of passwords, where there are any; it is written to no disk."""
    secrets = {target.host.name: values for target in targets if (values := _secrets_of(target.host.connection))}
    if not secrets:
        yield []
        return
    with memory_file(render_secrets(secrets)) as path:
        yield [path]


@dataclass(frozen=True)
class _Recorder:
    """Passes each event to its host's outcome and to `progress`, and records it in tasks.jsonl and changes.jsonl."""

    run: RunFolder
    playbook: str
    outcomes: dict[str, HostOutcome]
    progress: Progress

    def take(self, event: dict[str, Any]) -> None:
        kind, data = str(event.get("event")), event.get("event_data") or {}
        if kind == "playbook_on_stats":
            for known in self.outcomes.values():
                known.close(data)
            return
        outcome = self.outcomes.get(str(data.get("host")))
        if outcome is None:
            return
        if str(data.get("task")).startswith(_VALIDATION) and kind != "runner_on_failed":
            return
        if kind == "runner_on_start":
            outcome.task = str(data.get("task"))
            self.progress(outcome.host, outcome.task)
        elif kind in _ENDINGS:
            outcome.task_ended(kind, data)
            line = {
                "at": utc_now(),
                "host": outcome.host,
                "role": data.get("role"),
                "task": data.get("task"),
                "status": kind.removeprefix("runner_on_"),
                "changed": bool((data.get("res") or {}).get("changed")),
                "seconds": round(float(data.get("duration") or 0.0), 3),
            }
            with self.run.path(TASKS_FILE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if (change := describe_change(kind, data)) is not None:
                self.run.change("ansible", host=outcome.host, playbook=self.playbook, **change)
