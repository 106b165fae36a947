"""The reference answer of the built-in model, computed while the server starts. A part of ready.pyz.

One process computes it, whichever slice of the proof asks for it first: it holds a lock for as long as it lives.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from pathlib import Path
from typing import Any

from .answer import NotProvenError
from .service import ReadinessRequest

POLL_S = 0.1


def begin(request: ReadinessRequest) -> None:
    """Start to compute the reference where there is none yet and nobody is at it."""
    if request.reference is None or Path(request.reference).exists():
        return
    prefix = Path(request.prefix)
    lock(request).parent.mkdir(exist_ok=True)
    maker = [
        str(prefix / "current/bin/python"),
        "-I",
        "-B",
        str(prefix / "bin/builtin_model.py"),
        "--folder",
        request.model_folder,
    ]
    with lock(request).open("a") as held, log(request).open("a") as output:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # The child inherits the open file, and with it the lock: it is free when the child is gone.
        subprocess.Popen(
            [*maker, "--reference", request.reference, "--environment", request.environment],
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


def wait_for(request: ReadinessRequest) -> dict[str, Any]:
    """The reference, once it is there.

    Raises NotProvenError when nobody computes it any more and it is not there.
    """
    path = Path(request.reference or "")
    while not path.exists():
        if is_free(lock(request)) and not path.exists():
            text = log(request).read_text(errors="replace").strip().splitlines() if log(request).exists() else []
            raise NotProvenError(
                f"the reference answer could not be computed: {text[-1] if text else 'it left no word'}"
            )
        time.sleep(POLL_S)
    reference: dict[str, Any] = json.loads(path.read_text())
    return reference


def is_free(path: Path) -> bool:
    try:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
