"""The product's commands as processes that can be killed in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import ROOT

SERVES = ("serving", "unchanged")
"""States of a host that serves."""


@dataclass(frozen=True)
class Done:
    """A command that has ended by itself, or was ended because it hung."""

    code: int
    out: str
    seconds: float
    summary: dict[str, Any]
    hung: bool = False

    @property
    def is_green(self) -> bool:
        """Whether it was a `provision` after which the host serves, with nothing to warn of."""
        return (self.code, self.summary.get("verdict")) == (0, "green") and self._host.get("state") in SERVES

    def row(self) -> dict[str, Any]:
        """Return what a row says of it."""
        phases = self._host.get("phases", {}).values()
        texts = [each["text"] for each in phases if each["status"] not in ("ok", "skip") and each.get("text")]
        return {
            "code": self.code,
            "verdict": self.summary.get("verdict"),
            "state": self._host.get("state"),
            "seconds": round(self.seconds, 1),
            **({"text": " ".join(texts[0].split())[:300]} if texts else {}),
        }

    @property
    def _host(self) -> dict[str, Any]:
        hosts = self.summary.get("hosts") or [{}]
        host: dict[str, Any] = hosts[0]
        return host


class Command:
    """A command that was started in a process group of its own, as by a terminal."""

    def __init__(self, *arguments: str, logs: Path) -> None:
        self._logs = logs
        self._before = self._latest()
        self._done: Done | None = None
        self._out = logs.parent / f"{time.time_ns()}.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "FIRSTLIGHT_LOGS": str(logs), "TERM": "dumb"}
        self._started = time.monotonic()
        with self._out.open("wb") as out:
            # A file, because a process that outlives the command would keep a pipe open.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "provision", *arguments],
                cwd=logs.parent,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()

    @property
    def run(self) -> Path | None:
        """Return the folder of its run, once there is one."""
        latest = self._latest()
        return None if latest == self._before else latest

    def end(self, limit_s: float) -> Done:
        """Wait for its end; after a limit it is killed. A second call returns what the first one did."""
        if self._done is not None:
            return self._done
        hung = False
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            hung = True
        finally:
            self._kill()
        summary = self.run / "summary.json" if self.run is not None else None
        self._done = Done(
            code=self.process.returncode,
            out=self._out.read_text(encoding="utf-8", errors="replace"),
            seconds=time.monotonic() - self._started,
            summary=json.loads(summary.read_bytes()) if summary is not None and summary.exists() else {},
            hung=hung,
        )
        return self._done

    def _kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _latest(self) -> Path | None:
        latest = self._logs / "latest"
        return latest.resolve() if latest.exists() else None
