"""What answers are compared with: the reference, and those of a user's model in its last green run.

The reference of the built-in model, or of a user's that makes vectors, is computed while the server starts: the first
slice of the proof that needs it starts one process, which locks a file while it lives. A part of ready.pyz.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from verify.files import read_json, write_atomically
from verify.serving.answers import NotProvenError

from .service import ReadinessRequest

POLL_S = 0.1


def begin(request: ReadinessRequest) -> None:
    """Start to compute the reference unless it exists or a process already computes it."""
    if request.reference is None or Path(request.reference).exists():
        return
    prefix = Path(request.prefix)
    lock(request).parent.mkdir(exist_ok=True)
    program = "builtin_model.py" if request.task == "generate" else "vectors.py"
    maker = [str(prefix / "current/bin/python"), "-I", "-B", str(prefix / "bin" / program)]
    maker += ["--folder", request.model_folder, "--reference", request.reference]
    maker += ["--task", request.task] if request.task != "generate" else []
    maker += ["--unlike", f"firstlight_vllm_args has {', '.join(request.pooling)}"] if request.pooling else []
    with lock(request).open("a") as held, log(request).open("a") as output:
        if is_locked(held):
            return
        # The child inherits the open file and its lock, which is released when the child exits.
        subprocess.Popen(
            maker,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(held.fileno(),),
            start_new_session=True,
        )


def lock(request: ReadinessRequest) -> Path:
    return Path(request.prefix) / "verify" / "reference.lock"


def log(request: ReadinessRequest) -> Path:
    return Path(request.prefix) / "verify" / "reference.log"


def is_locked(file: IO[str]) -> bool:
    """Return whether another process has the lock; else take it, as long as the file is open. Other accounts must not lock it."""
    os.fchmod(file.fileno(), 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def wait_for(request: ReadinessRequest) -> dict[str, Any]:
    """Wait for the reference and return it. Raises NotProvenError where no process computes it."""
    path = Path(request.reference or "")
    while not path.exists():
        with lock(request).open("a") as file:
            ended = not is_locked(file)
        if ended and not path.exists():
            text = log(request).read_text(errors="replace").strip().splitlines() if log(request).exists() else []
            raise NotProvenError(
                f"the reference answer could not be computed: {text[-1] if text else 'it printed nothing'}"
            )
        time.sleep(POLL_S)
    reference: dict[str, Any] = json.loads(path.read_text())
    return reference


@dataclass(frozen=True)
class LastRun:
    """The file with the answers of one kind: `logprobs` or `vectors`."""

    request: ReadinessRequest
    kind: str
    asked: dict[str, Any]
    """Number type and question; answers to another one are not compared."""

    @property
    def path(self) -> Path:
        """Return where the answers are."""
        return Path(self.request.prefix) / "verify" / f"{self.kind}-{Path(self.request.model_folder).name}.json"

    def answers(self) -> dict[str, Any]:
        """Return the answers of the last green run; empty where it had other files, or was asked otherwise."""
        last = read_json(self.path)
        return last if all(last.get(name) == value for name, value in self._key().items()) else {}

    def keep(self, answers: dict[str, Any]) -> None:
        """Store the answers of a green run."""
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomically(
            self.path, json.dumps({**self._key(), "release": self.request.release, "at": at, **answers}) + "\n"
        )

    def _key(self) -> dict[str, Any]:
        files = (path for path in Path(self.request.model_folder).iterdir() if path.is_file())
        return {"model": sorted([path.name, path.stat().st_size] for path in files), **self.asked}
