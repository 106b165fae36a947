"""A machine that builds. The build program is sent there and reports events; it ends when its input is closed.

It also ends when this process or the connection ends. Its results stay in its folder, and the next run resumes there.
"""

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from provision.core.errors import StageError
from provision.core.folders import product_path
from provision.core.models.base import Record
from provision.core.models.staged import StagedFile
from provision.fleet.ssh.session import Session
from provision.phases.serve.tools import zipapp

PROGRAM = "builder.pyz"
SILENT_S = 6 * 3600.0
"""A compiler may say nothing for as long. A lost connection ends the wait before."""
FETCH_S = 900.0
"""Time limit for a wheel of some hundred megabytes over a slow line, seconds."""
MOST_FETCHED = 4 << 30
"""Bytes of a wheel or a log at most."""

_SOURCE = Path(__file__).parent / "onbuilder"

Report = Callable[[str], None]


class BuilderFacts(Record):
    """Properties of a build host for one Python and one CUDA release."""

    machine: str
    glibc: str | None
    """None for another C library."""
    compiler: str | None
    """First line of `c++ --version`."""
    python: str | None
    """Path of an interpreter of the right minor version with headers."""
    cuda_home: Mapping[str, str] | None
    """`home` and `release` of a toolkit of the right major version."""
    hipcc: str | None


class BuildResult(Record):
    """A wheel on the build host."""

    wheel: str
    sha256: str
    jobs: int
    cpu_seconds: float
    largest_process_gib: float
    nvcc: str | None


@dataclass(frozen=True)
class BuildRequest:
    """The content of request.json, which onbuilder/build_steps.py reads."""

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
    """A build host, reached through a session. `folder` has its builds; `python` runs the build program."""

    def __init__(self, name: str, session: Session, folder: str, *, python: str = "python3") -> None:
        self.name = name
        self._session, self._folder, self._python = session, folder, python

    def read_facts(self, python: str, cuda: str) -> BuilderFacts:
        """Read the properties of the machine. Raises StageError where it has no Python for the build program."""
        self._session.run(f"mkdir -p {shlex.quote(self._folder)}")
        self._session.write(f"{self._folder}/{PROGRAM}", program())
        done = self._session.run(self._command("facts", python, cuda), timeout_s=120)
        try:
            return BuilderFacts.model_validate_json(done.stdout)
        except ValidationError:
            lines = (done.stderr or done.stdout).strip().splitlines()
            raise StageError(
                f"build host {self._session.host} cannot run the build program: {lines[-1] if lines else f'exit status {done.rc}'}",
                hint="install Python 3.8 or newer there as python3",
            ) from None

    def build(self, name: str, request: BuildRequest, files: Sequence[StagedFile], report: Report) -> BuildResult:
        """Build in the folder of that name, or resume there. Raises StageError with the errors of the compiler."""
        folder = f"{self._folder}/{name}"
        report("sending the build inputs")
        self._session.send(files, f"{folder}/incoming")
        uv = next(file.name for file in files if file.kind == "tool")
        self._session.run(f"chmod 755 {shlex.quote(f'{folder}/incoming/{uv}')}")
        self._session.write(f"{folder}/request.json", json.dumps(asdict(request)).encode(), mode=0o600)
        channel = self._session.open_channel(f"exec {self._command('build', folder)}")
        try:
            while True:
                line = channel.readline(timeout_s=SILENT_S)
                if not line:
                    lines = channel.error_text().strip().splitlines()
                    why = f": {lines[-1]}" if lines else ""
                    raise StageError(
                        f"the build on {self._session.host} ended without a result{why}",
                        hint="run again: the build is resumed",
                    )
                if (built := self._handle(line, report)) is not None:
                    return built
        finally:
            channel.close()

    def fetch(self, path: str) -> bytes:
        """Return the content of a file of a build."""
        return self._session.read(path, timeout_s=FETCH_S, limit_bytes=MOST_FETCHED)

    def log(self, name: str) -> str:
        """Return the log of a build; empty when there is none."""
        try:
            return self.fetch(f"{self._folder}/{name}/build.log").decode(errors="replace")
        except FileNotFoundError:
            return ""

    def clear(self, name: str) -> None:
        """Remove the folder of a finished build."""
        self._session.run(f"rm -rf -- {shlex.quote(f'{self._folder}/{name}')}", timeout_s=FETCH_S)

    def _handle(self, line: str, report: Report) -> BuildResult | None:
        """Report an event of the build program; return the result with which it ends."""
        try:
            event = json.loads(line)
            kind = event.pop("event")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StageError(
                f"build host {self._session.host} sent `{line.strip()[:200]}`, which is not from the build program",
                hint="its shell must not print anything at the start of a command: check ~/.bashrc there",
            ) from None
        if kind == "built":
            return BuildResult.model_validate(event)
        if kind != "step":
            raise StageError(
                f"the build on {self._session.host} {'was cancelled' if kind == 'cancelled' else 'failed'}: {event['text']}",
                hint=event.get("hint") or "run again: it continues where it stopped",
            )
        report(event["text"])
        return None

    def _command(self, *arguments: str) -> str:
        return shlex.join([self._python, f"{self._folder}/{PROGRAM}", *arguments])


def program() -> bytes:
    """Return the build program as one zipapp."""
    return zipapp(_SOURCE, "onbuilder.build_steps:main()", (product_path("verify") / "host/control_group.py",))
