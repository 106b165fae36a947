"""One ansible-playbook, run through ansible-runner in a private folder that is gone afterwards."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from provision.core.errors import InstallError
from provision.core.folders import product_path
from provision.core.redaction import redact
from provision.phases.install.ansible_environment import CONFIG, CONFIG_TEXT, ansible_settings, kept, runner_additions
from verify.printable import printable

PLAYBOOKS = product_path("playbooks")
GRACE_S = 15.0
"""How long Ansible may take to end its tasks in order before it is killed."""
POLL_S = 0.5
"""How often a silent playbook is looked after."""


class Cancellation:
    """Ends a playbook in order: Ansible is asked first, and killed only when it does not end."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._asked_at: float | None = None
        self.pid: int | None = None

    @property
    def happened(self) -> bool:
        return self._asked_at is not None

    def must_kill(self) -> bool:
        """Asked by the runner again and again; true ends the whole process group by force."""
        if self._asked_at is None:
            if not self._wanted():
                return False
            self._asked_at = time.monotonic()
            if self.pid is None:
                return True
            os.kill(self.pid, signal.SIGTERM)
        return time.monotonic() - self._asked_at > GRACE_S


def ansible_playbook() -> str:
    """The program of our own environment, never another one that happens to be in PATH.

    Raises InstallError when it is not there.
    """
    path = Path(sys.executable).with_name("ansible-playbook")
    if not path.exists():
        raise InstallError(
            f"{path} does not exist: this Python environment is not complete",
            hint="./firstlight self-check names what is missing",
        )
    return str(path)


def run_playbook(
    name: str,
    inventories: Sequence[Path],
    *,
    tags: Sequence[str] = (),
    hosts: int,
    scratch: Path,
    log: Path,
    on_event: Callable[[dict[str, Any]], None],
    cancellation: Cancellation,
) -> str:
    """Run playbooks/NAME.yml, or only its tasks with one of the tags; every event goes to `on_event`, all output to the end of the file `log`.

    Returns the last lines of the output and the exit code, for the case that an event is missing.
    """
    from ansible_runner.config.runner import RunnerConfig
    from ansible_runner.runner import Runner

    settings = ansible_settings(playbooks=PLAYBOOKS, scratch=scratch, hosts=hosts)
    (scratch / CONFIG).write_text(CONFIG_TEXT, encoding="utf-8")
    config = RunnerConfig(
        private_data_dir=str(scratch),
        project_dir=str(PLAYBOOKS),
        ident="run",
        playbook=str(PLAYBOOKS / f"{name}.yml"),
        inventory=[str(path) for path in inventories],
        tags=",".join(tags) or None,
        quiet=True,
        suppress_ansible_output=True,
        suppress_env_files=True,
        settings={"pexpect_timeout": POLL_S},
    )
    config.prepare()
    config.command[0] = ansible_playbook()
    config.env = {**runner_additions(config.env, os.environ), **kept(os.environ), **settings}

    def handle(event: dict[str, Any]) -> bool:
        cancellation.pid = event.get("pid") or cancellation.pid
        on_event(event)
        return False  # the record is ours to write, without the modules' arguments

    runner = Runner(config, event_handler=handle, cancel_callback=cancellation.must_kill)
    runner.run()
    output = Path(config.artifact_dir) / "stdout"
    said = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    text = redact(printable(said))
    # A run has several playbooks: what the last one says must not hide where another failed.
    with log.open("a", encoding="utf-8") as file:
        file.write(f"# playbooks/{name}.yml\n{text}\n")
    shutil.rmtree(config.artifact_dir, ignore_errors=True)
    tail = " / ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())
    return f"ansible-playbook ended with code {runner.rc}: {tail}"
