"""The command line as a user runs it, with test hosts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIRST_SCREEN = 12
"""The number of lines of a summary that must name the first cause."""
PARTS = {
    "packages": r"^firstlight-changed: packages ",
    "account": r"^Make the service account$",
    "environment": r"^Build the environment$",
    "model": r"^(Create the built-in model$|Move the model's files)",
}
"""Parts of a plan, each with the task or the output of one by which a run changes it on a host."""
AROUND = {"firewall", "gateway", "monitoring"}
"""Playbooks of what is around a service: a plan names that, and compares nothing of it."""
RUN_S = 1500.0
"""Longer than any run of three hosts on two slow cores; a limit, not an expectation."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    logs: Path

    @property
    def run(self) -> Path:
        """The folder of the newest run."""
        return (self.logs / "latest").resolve()

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of the newest run."""
        document: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return document

    def host(self, name: str) -> dict[str, Any]:
        """One host of the summary."""
        return next(host for host in self.summary["hosts"] if host["name"] == name)

    def cause(self, name: str) -> str:
        """Return the doctor's first finding for a failed host; it must be on the first screen of the summary."""
        findings = self.host(name)["findings"]
        assert self.code != 0, self.output()
        assert findings, self.output()
        assert f"cause: {findings[0]['cause']}" in "\n".join(self.out.splitlines()[:FIRST_SCREEN]), self.output()
        return str(findings[0]["cause"])

    def output(self) -> str:
        """Return all output, for messages of failed tests."""
        return f"exit {self.code}\n{self.out[-6000:]}\n{self.err[-6000:]}"


@dataclass(frozen=True)
class CommandRunner:
    """Runs commands with a folder of runs of their own."""

    logs: Path
    module: str = "provision"
    """What Python runs."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own, as a terminal does."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": str(self.logs), "TERM": "dumb"}
        return subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            cwd=self.logs.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def end(self, process: subprocess.Popen[str], *, send: signal.Signals | None = None) -> Ended:
        """Wait for a command, after sending a signal if one is given."""
        if send is not None:
            process.send_signal(send)
        try:
            out, err = process.communicate(timeout=RUN_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        ended = Ended(process.returncode, out, err, self.logs)
        if process.args[3:4] == ["provision"] and ended.code == 0:  # type: ignore[index]
            assert_as_planned(ended)
        return ended

    def __call__(self, *arguments: str, code: int | None = None) -> Ended:
        """Run a command to its end, which must be with `code` if one is given."""
        ended = self.end(self.start(*arguments))
        assert code in (None, ended.code), ended.output()
        return ended

    def changes_nothing(self, *arguments: str) -> Ended:
        """Run a command that must succeed and change no host."""
        ended = self(*arguments, code=0)
        assert ended.summary["changed"] == 0, ended.output()
        return ended

    def wait_for(self, process: subprocess.Popen[str], seen: Callable[[Path], bool]) -> None:
        """Wait until the newest run's folder has something; the command must still run then."""
        deadline = time.monotonic() + RUN_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise AssertionError(f"the command ended first: {self.end(process).output()}")
            if (self.logs / "latest").exists() and seen((self.logs / "latest").resolve()):
                return
            time.sleep(0.05)
        raise AssertionError("it never showed")


def assert_as_planned(ended: Ended) -> None:
    """Check that a run did to each host what its plan said: nothing, or these parts and no others."""
    path = ended.run / "planned_changes.json"
    if not path.exists():  # it was for gateways alone
        assert not any("plan" in host["phases"] for host in ended.summary["hosts"]), ended.output()
        return
    planned = json.loads(path.read_text())
    for name, changes in planned.items():
        if all(change["sign"] != "?" for change in changes):
            assert_parts_as_planned(ended, name, changes)
        phases = ended.host(name)["phases"]
        left = {phase: phases.get(phase, {}).get("status") == "skipped" for phase in ("install", "serve")}
        if not changes:  # a service without a valid proof is proven again, which changes nothing
            assert left["install"], (name, ended.output())
        elif all(change["sign"] != "?" for change in changes):
            assert not all(left.values()), (name, changes, ended.output())


def assert_parts_as_planned(ended: Ended, name: str, changes: list[dict[str, Any]]) -> None:
    """Check that a run changed no part of a host that its plan does not name, and the packages and the model that it names."""
    records = [each for each in _rows(ended.run / "changes.jsonl") if each["host"] == name and each["changed"]]
    compared = [each for each in records if each.get("playbook") not in AROUND]
    text = "\n".join(f"{each.get('task', '')}\n{each['output']}" for each in compared)
    done = {part for part, shown in PARTS.items() if re.search(shown, text, re.MULTILINE)}
    parts = {change["part"] for change in changes}
    allowed = parts | ({"model"} if "files" in parts else set())  # a changed file may be one of the model
    assert done <= allowed, (name, changes, done, ended.output())
    new = {change["part"] for change in changes if change["sign"] == "+"}
    # What an interrupted run left is there already, except the model, which is made last.
    certain = {"packages", "model"} if "environment" in new else {"packages"}
    assert certain & new <= done, (name, changes, done, ended.output())
    if not changes:
        assert not [each for each in records if each.get("playbook") in ("install", "serve")], (name, ended.output())


def play_by_hand(playbook: str, inventory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Play a playbook as a person does, with an inventory that a run left."""
    words = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), f"playbooks/{playbook}.yml"]
    return subprocess.run([*words, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def task_ended(host: str, task: str) -> Callable[[Path], bool]:
    """Return a condition: Ansible has finished a task on a host."""

    def seen(run: Path) -> bool:
        return any(row["host"] == host and row["task"] == task for row in _rows(run / "install" / "tasks.jsonl"))

    return seen


def event(kind: str, **fields: Any) -> Callable[[Path], bool]:
    """Return a condition: the run has an event."""

    wanted = {"kind": kind, **fields}.items()

    def seen(run: Path) -> bool:
        return any(all(row.get(key) == value for key, value in wanted) for row in _rows(run / "events.jsonl"))

    return seen


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file that a run writes; none where it is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]
