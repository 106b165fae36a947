"""Commands as a user types them: one at a time, on a terminal, or many in forks of one process that has imported the product."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, os, sys
from provision.cli.main import main

codes = []
for number, words in enumerate(json.loads(sys.argv[1])):
    if (pid := os.fork()) == 0:
        os.mkdir(str(number))
        os.chdir(str(number))
        for descriptor, name in ((1, "../%d.out"), (2, "../%d.err")):
            os.dup2(os.open(name % number, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.argv = ["firstlight", *words]
        main()
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(json.dumps(codes))
"""

COMMAND = (sys.executable, "-P", "-X", "utf8", "-m", "provision")
"""The product as the launcher starts it."""
FAR: dict[str, Any] = {"ansible_host": "127.0.0.1", "ansible_port": 1}
"""A host that nobody reaches."""


def firstlight(*words: str, logs: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the folder of its runs, with more variables."""
    return subprocess.run(
        [*COMMAND, *words],
        env=variables(logs, NO_COLOR="1", **more),
        cwd=logs,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def variables(logs: Path, **more: str) -> dict[str, str]:
    """Return the variables of a command whose runs are in a folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": str(logs), **more}


def start_on_terminal(
    *words: str, logs: Path, term: str = "xterm", stdout: int | None = None
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command on a new terminal, from the folder above that of its runs; return it and our end of the terminal.

    Args:
        words: The words of the command.
        logs: The folder of its runs.
        term: What kind of terminal it is.
        stdout: Where standard output goes instead.
    """
    ours, theirs = pty.openpty()
    environment = variables(logs, TERM=term)
    environment.pop("CI", None)
    process = subprocess.Popen(
        ["env", "--default-signal=HUP", *COMMAND, *words],  # `nohup` before the tests is not for it
        stdin=theirs,
        stdout=theirs if stdout is None else stdout,
        stderr=theirs,
        env=environment,
        cwd=logs.parent,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def inventory_of(folder: Path, **hosts: dict[str, Any] | None) -> Path:
    """Write an inventory of hosts with their variables into a folder; return its path."""
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"hosts": hosts}}))
    return path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def run_all(lines: Sequence[tuple[str, ...]], folder: Path) -> dict[tuple[str, ...], Ended]:
    """Run commands one after the other, each in an empty folder below a folder, and return how each ended.

    Args:
        lines: The words of each command.
        folder: An empty folder.
    """
    done = subprocess.run(
        [sys.executable, "-P", "-X", "utf8", "-c", PROGRAM, json.dumps(lines)],
        env=variables(Path("logs"), NO_COLOR="1"),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        start_new_session=True,  # without a terminal, which would be asked for passwords
    )
    files = [
        [(folder / f"{number}.{name}").read_text("utf-8") for name in ("out", "err")] for number in range(len(lines))
    ]
    return {
        words: Ended(code, *texts) for words, code, texts in zip(lines, json.loads(done.stdout), files, strict=True)
    }
