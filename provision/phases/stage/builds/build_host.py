"""A machine that builds: the program is sent there, told what to do, listened to, and ended by closing its input.

It ends too when this process or the connection dies. What it made so far stays in its folder, and the next run goes on there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from provision.core.errors import StageError
from provision.core.models.base import Record
from provision.core.models.staged import StagedFile
from provision.core.zipapp import pack_zipapp
from provision.fleet.ssh.session import Session

PROGRAM = "forge.pyz"
SILENT_S = 120.0
"""The builder says something at least every 10 s; after this many seconds it is taken for gone."""
FETCH_S = 900.0
"""For a wheel of some hundred megabytes over a slow line, seconds."""

_SOURCE = Path(__file__).parent / "onbuilder"

Told = Callable[[str], None]


class Survey(Record):
    """What the builder has for one Python and one CUDA release."""

    machine: str
    glibc: str | None
    """Null where the C library is another one."""
    compiler: str | None
    """First line of `c++ --version`."""
    python: str | None
    """Path of an interpreter of the right minor version with its headers."""
    cuda_home: Mapping[str, str] | None
    """`home` and `release` of a toolkit of the right major version."""
    hipcc: str | None


class Built(Record):
    """A wheel on the builder."""

    wheel: str
    sha256: str
    jobs: int
    cpu_seconds: float
    largest_process_gib: float
    nvcc: str | None


@dataclass(frozen=True)
class Order:
    """What onbuilder/work.py reads."""

    sdist: str
    lock: str
    python: str | None
    archive: str | None
    cuda: str
    """Release, `13.0`; empty for ROCm."""
    cuda_home: str | None
    links: tuple[tuple[str, str], ...]
    environment: dict[str, str]
    memory_gib: float


class BuildHost:
    """One builder, through its session; `folder` is where its builds lie, `python` the interpreter that runs the program."""

    def __init__(self, session: Session, folder: str, *, python: str = "python3") -> None:
        self._session, self._folder, self._python = session, folder, python

    def survey(self, python: str, cuda: str) -> Survey:
        """Look at the machine. Raises StageError when it has no Python at all to run the program, TransportError."""
        self._session.run(f"mkdir -p {shlex.quote(self._folder)}")
        self._session.write(f"{self._folder}/{PROGRAM}", program())
        done = self._session.run(self._command("survey", python, cuda), timeout_s=120)
        try:
            return Survey.model_validate_json(done.stdout)
        except ValidationError:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise StageError(
                f"builder {self._session.host} cannot run the build program: {said[-1] if said else f'exit status {done.rc}'}",
                hint="it needs Python 3.8 or newer as python3",
            ) from None

    def build(self, name: str, order: Order, files: Sequence[StagedFile], told: Told) -> Built:
        """Build in the folder of that name, or go on where an earlier run stopped.

        Raises StageError with the compiler's own words when it fails, TransportError.
        """
        folder = f"{self._folder}/{name}"
        told("sending what the build needs")
        self._session.send(files, f"{folder}/incoming")
        uv = next(file.name for file in files if file.kind == "tool")
        self._session.run(f"chmod 755 {shlex.quote(f'{folder}/incoming/{uv}')}")
        self._session.write(f"{folder}/order.json", json.dumps(asdict(order)).encode(), mode=0o600)
        channel = self._session.open_channel(f"exec {self._command('build', folder)}")
        try:
            while True:
                line = channel.readline(timeout_s=SILENT_S)
                if not line:
                    raise StageError(
                        f"the build on {self._session.host} ended without a word{_said(channel.error_text())}",
                        hint="run again: it continues where it stopped",
                    )
                if (built := self._hear(self._event(line), told)) is not None:
                    return built
        finally:
            channel.close()

    def fetch(self, path: str) -> bytes:
        """A file of a build."""
        return self._session.read(path, timeout_s=FETCH_S)

    def log(self, name: str) -> str:
        """The log of a build so far; empty when there is none."""
        try:
            return self._session.read(f"{self._folder}/{name}/build.log", timeout_s=FETCH_S).decode(errors="replace")
        except FileNotFoundError:
            return ""

    def clear(self, name: str) -> None:
        """Remove what is left of a build whose wheel is in the wheelhouse."""
        self._session.run(f"rm -rf -- {shlex.quote(f'{self._folder}/{name}')}", timeout_s=FETCH_S)

    def _event(self, line: str) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            raise StageError(
                f"builder {self._session.host} says `{line.strip()[:200]}`, which the build program does not",
                hint="whatever its shell prints at the start of a command must go away: look at ~/.bashrc there",
            )
        return event

    def _hear(self, event: dict[str, Any], told: Told) -> Built | None:
        kind = event.pop("event")
        if kind == "built":
            return Built.model_validate(event)
        if kind == "units":
            told(f"{event['done']} of {event['total']} units compiled")
        elif kind == "step":
            told(event["text"])
        elif kind != "alive":
            raise StageError(
                f"the build on {self._session.host} {'was cancelled' if kind == 'cancelled' else 'failed'}: {event['text']}",
                hint=event.get("hint") or "run again: it continues where it stopped",
            )
        return None

    def _command(self, *arguments: str) -> str:
        return shlex.join([self._python, f"{self._folder}/{PROGRAM}", *arguments])


def program() -> bytes:
    """The building program as one file."""
    return pack_zipapp(
        {f"onbuilder/{path.name}": path.read_bytes() for path in _SOURCE.glob("*.py")}, main="onbuilder.main:main()"
    )


def _said(text: str) -> str:
    lines = text.strip().splitlines()
    return f": {lines[-1]}" if lines else ""
