"""Server with the service's own command and one change: another attention back end, or no compilation."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from verify.runner.child_processes import end_with_parent
from verify.serving.service import Service

BACKEND, BACKEND_BEFORE = "--attention-backend", "VLLM_ATTENTION_BACKEND"
"""Option for the back end, and the variable of releases before 0.13 (provision/phases/serve/options.toml)."""
EAGER = "--enforce-eager"
UNCOMPILED = "TORCHDYNAMO_DISABLE"
START_S, STOP_S = 900.0, 90.0
POLL_S = 0.2
TAIL_BYTES = 64_000
"""Length of the log: an engine's own error is above the traces of the processes that waited for it."""
POINTS_UP = "See root cause above"
"""Part of vLLM's last error, which reports a failed engine without the reason (vllm/v1/engine/utils.py)."""


class VariantError(Exception):
    """A variant cannot be made, or does not start; the message is the reason."""


@dataclass(frozen=True)
class Command:
    """Command, environment and account of a service."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    folder: str | None = None
    """Its cgroup; None for this process's own. A process that starts others must be allowed into it."""


def running(service: Service) -> Command:
    """Return the command of the running service.

    Raises:
        OSError: This user may not read it.
    """
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
    """Return the command with another attention back end.

    Raises:
        VariantError: The command names none.
    """
    if BACKEND in command.argv[:-1]:
        argv = list(command.argv)
        argv[argv.index(BACKEND) + 1] = backend
        return replace(command, argv=tuple(argv))
    if BACKEND_BEFORE in command.environment:
        return replace(command, environment={**command.environment, BACKEND_BEFORE: backend})
    raise VariantError("the service's command names no attention back end: install it again with ./firstlight serve")


def with_mode(command: Command, mode: str) -> Command:
    """Return the command in mode `eager` or `compiled`."""
    argv = tuple(word for word in command.argv if word != EAGER)
    environment = {name: value for name, value in command.environment.items() if name != UNCOMPILED}
    if mode == "eager":
        return replace(command, argv=(*argv, EAGER))
    return replace(command, argv=argv, environment=environment)


@contextmanager
def serve_variant(service: Service, command: Command) -> Iterator[Service]:
    """Run a server with a command within the block, which starts when the server is healthy. It ends with this process.

    Raises:
        VariantError: The server does not start; the message has the end of its log.
    """
    as_owner = os.geteuid() == 0  # otherwise this process already runs as the service's account
    with TemporaryFile() as log:
        process = subprocess.Popen(
            command.argv,
            env=dict(command.environment),
            cwd=command.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # noqa: PLW1509 - no other thread runs while a server is started
            user=command.uid if as_owner else None,
            group=command.gid if as_owner else None,
            extra_groups=list(command.groups) if as_owner else None,
        )
        try:
            _wait(service, process)
            yield replace(service, main_pid=process.pid)
        except VariantError as error:
            log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES))
            message = log.read().decode(errors="replace").strip().splitlines()
            raise VariantError(f"{error}: {_reason(message)}") from None
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
        # Engine and worker processes survive a killed server, so kill the group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _reason(message: list[str]) -> str:
    """Return the last line that names an error and does not point to another one, otherwise the last line."""
    named = [line for line in message if "Error" in line and POINTS_UP not in line]
    return (named or message or ["it left no message"])[-1].strip()[:400]
