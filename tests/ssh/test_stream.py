"""Bulk data into a command of a host: what becomes of the command and of the connection when one of the two ends."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Any, cast

import pytest

from provision.core.errors import StageError, TransportError
from provision.core.models.inventory import Connection
from provision.fleet.ssh import ssh
from provision.fleet.ssh.process import LocalProcess
from provision.fleet.ssh.ssh import SshSession


class Link:
    """An open connection to this machine."""

    def __init__(self) -> None:
        self.transport = self.parts = self
        self.is_open = True
        self.processes: list[LocalProcess] = []

    def is_active(self) -> bool:
        return self.is_open

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def session(link: Link, monkeypatch: pytest.MonkeyPatch) -> SshSession:
    def start(transport: Any, argv: Sequence[str]) -> LocalProcess:
        transport.processes.append(LocalProcess(argv))
        return cast("LocalProcess", transport.processes[-1])

    monkeypatch.setattr(ssh, "RemoteProcess", start)
    opened = SshSession("gpu-1", Connection(kind="ssh", address="192.0.2.1", user="ops"))
    opened._opened = link  # type: ignore[assignment]
    return opened


def test_a_command_that_ends_early_is_named_with_its_error(session: SshSession, link: Link) -> None:
    with pytest.raises(StageError, match="did not take the files: no space left"):
        session.stream("echo no space left >&2; exit 1", repeat(b"x" * 65536, 1000))
    assert link.is_open


def test_an_error_while_the_data_is_made_ends_the_command(session: SshSession, link: Link) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"the first piece"
        raise StageError("the file became shorter")

    with pytest.raises(StageError, match="became shorter"):
        session.stream("cat > /dev/null", pieces())
    [process] = link.processes
    assert process.wait(20) == 0
    assert link.is_open


def test_a_host_that_takes_nothing_for_too_long_is_given_up(
    session: SshSession, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(self: LocalProcess, data: bytes, timeout_s: float | None = None) -> None:
        del self, data, timeout_s
        raise TimeoutError

    monkeypatch.setattr(LocalProcess, "write", write)
    with pytest.raises(TransportError, match="broke: no answer in time"):
        session.stream("cat > /dev/null", [b"x"])
    assert not link.is_open
