"""The service's own command with one thing otherwise: the back end of attention, or compilation."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile

from verify.serving.service import Service

BACKEND, BACKEND_BEFORE = "--attention-backend", "VLLM_ATTENTION_BACKEND"
"""How vLLM is told the back end, and how releases before 0.13 are (provision/phases/serve/options.toml)."""
EAGER = "--enforce-eager"
UNCOMPILED = "TORCHDYNAMO_DISABLE"
START_S, STOP_S = 900.0, 90.0
POLL_S = 0.2
TAIL_BYTES = 64_000
"""Of its log: an engine's own error stands above the traces of the processes that waited for it."""
POINTS_UP = "See root cause above"
"""In vLLM's last error, which tells that an engine failed and not why (vllm/v1/engine/utils.py)."""
PR_SET_PDEATHSIG = 1


class VariantError(Exception):
    """A variant that cannot be made, or that does not start; the text says why."""


@dataclass(frozen=True)
class Command:
    """What a service runs, as whom."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    folder: str | None = None
    """Where it runs; null for where this process does. A process that spawns others must be let into it."""


def running(service: Service) -> Command:
    """The command of the service that runs now. Raises OSError where this user may not read it."""
    folder = Path(f"/proc/{service.main_pid}")
    words = folder.joinpath("cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    pairs = folder.joinpath("environ").read_bytes().rstrip(b"\0").split(b"\0")
    environment = dict(os.fsdecode(pair).split("=", 1) for pair in pairs if b"=" in pair)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    uid, gid = (int(status[name].split()[1]) for name in ("Uid", "Gid"))
    groups = tuple(map(int, status["Groups"].split()))
    where = str((folder / "cwd").readlink())
    return Command(tuple(map(os.fsdecode, words)), environment, uid, gid, groups, where)


def with_backend(command: Command, backend: str) -> Command:
    """The same with another back end of attention. Raises VariantError where the command names none."""
    if BACKEND in command.argv[:-1]:
        argv = list(command.argv)
        argv[argv.index(BACKEND) + 1] = backend
        return replace(command, argv=tuple(argv))
    if BACKEND_BEFORE in command.environment:
        return replace(command, environment={**command.environment, BACKEND_BEFORE: backend})
    raise VariantError("the service's command names no back end of attention: install it anew with ./firstlight serve")


def with_mode(command: Command, mode: str) -> Command:
    """The same, `eager` or `compiled`."""
    argv = tuple(word for word in command.argv if word != EAGER)
    environment = {name: value for name, value in command.environment.items() if name != UNCOMPILED}
    if mode == "eager":
        return replace(command, argv=(*argv, EAGER))
    return replace(command, argv=argv, environment=environment)


@contextmanager
def serve_variant(service: Service, command: Command) -> Iterator[Service]:
    """A server of that command within the block, healthy when the block begins; it ends with this process.

    Raises VariantError with the end of its log where it does not start.
    """
    as_owner = os.geteuid() == 0  # else this process is the service's own account already
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other thread runs while a server is started
            user=command.uid if as_owner else None,
            group=command.gid if as_owner else None,
            extra_groups=list(command.groups) if as_owner else None,
        )
        try:
            _wait(service, process)
            yield replace(service, main_pid=process.pid)
        except VariantError as error:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            said = log.read().decode(errors="replace").strip().splitlines()
            raise VariantError(f"{error}: {_reason(said)}") from None
        finally:
            _end(process)


def _wait(service: Service, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not _healthy(service):
        if process.poll() is not None:
            raise VariantError(f"the server ended with {process.returncode} before it answered")
        if time.monotonic() > deadline:
            raise VariantError(f"the server did not answer within {START_S:g} s")
        time.sleep(POLL_S)


def _healthy(service: Service) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{service.url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    finally:
        # Engine and worker processes outlive a killed server; the group does not.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_with_parent() -> None:
    """Linux tells the server to end when the one that measures it is gone: its port must be free for the service."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def _reason(said: list[str]) -> str:
    """The last line that names an error and does not point at another one, else the last one."""
    named = [line for line in said if "Error" in line and POINTS_UP not in line]
    return (named or said or ["it left no word"])[-1].strip()[:400]
