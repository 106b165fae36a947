"""A run of many hosts: idle connections are closed, and hosts that hang delay no other at its end. Sessions are stand-ins."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from provision.core.errors import RemoteCommandError
from provision.core.install_paths import InstallPaths
from provision.core.models.inventory import Host
from provision.core.models.records import HostSummary
from provision.fleet.locks import HostLock
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.pipeline import host_summary
from provision.run import context as run_context
from provision.run.context import IDLE_AT_MOST
from provision.run.results import ProbedHosts
from tests.pipeline.local_context import local_context
from tests.report.sample import summary_of


class StubSession:
    """Counts as connected from its first use until it is closed."""

    def __init__(self, host: Host, fleet: Fleet) -> None:
        self.host = host.name
        self._fleet = fleet

    def run(self, command: str, **options: Any) -> str:
        del options
        self._fleet.open.add(self.host)
        self._fleet.most = max(self._fleet.most, len(self._fleet.open))
        return command

    def close(self) -> None:
        self._fleet.meet()
        self._fleet.open.discard(self.host)


class Fleet:
    """A run with that many hosts."""

    def __init__(self, folder: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: set[str] = set()
        self.most = 0
        self.together: threading.Barrier | None = None
        monkeypatch.setattr(run_context, "open_session", lambda host: StubSession(host, self))
        self.context = local_context(folder, [f"gpu-{place}" for place in range(number)])

    def meet(self) -> None:
        """Wait until as many hosts as the barrier wants are here at once."""
        if self.together is not None:
            self.together.wait(30)

    def ask_all(self) -> None:
        hosts = self.context.hosts()

        def call(host: Host) -> str:
            return cast("StubSession", self.context.session(host)).run("true")

        answers = self.context.run_on_hosts("probe", hosts, call, deadline_s=30)
        assert len(answers) == len(hosts)


def test_connections_of_a_large_fleet_are_closed_when_nobody_uses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 3 * IDLE_AT_MOST, monkeypatch)
    before = threading.active_count()
    fleet.ask_all()
    assert fleet.open == set()
    assert fleet.most <= DEFAULT_LIMIT
    assert threading.active_count() <= before + DEFAULT_LIMIT


def test_connections_of_a_small_fleet_stay_open_for_the_next_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet(tmp_path, 3, monkeypatch)
    fleet.ask_all()
    assert fleet.open == {"gpu-0", "gpu-1", "gpu-2"}


class KnownLock(HostLock):
    """A lock without a host; it notes its release."""

    def __init__(self, host: str, released: list[str]) -> None:
        self._host, self._released = host, released

    def close(self) -> None:
        self._released.append(self._host)


def test_sessions_and_locks_end_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, 8, monkeypatch)
    fleet.ask_all()
    released: list[str] = []
    for host in fleet.context.hosts()[:4]:
        fleet.context.sessions.locks[host.name] = KnownLock(host.name, released)
    # Each waits for all others: one after the other they would wait in vain.
    fleet.together = threading.Barrier(8)
    fleet.context.stack.close()
    assert fleet.open == set()
    assert sorted(released) == ["gpu-0", "gpu-1", "gpu-2", "gpu-3"]


def test_summaries_are_written_on_all_hosts_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(tmp_path, 8, monkeypatch)
    names = {host.name for host in fleet.context.hosts()}
    together, written = threading.Barrier(8), []

    def write(session: StubSession, path: str, content: bytes, *, root: bool) -> None:
        assert (path, root) == ("/p/logs/summary.txt", True)
        assert content.startswith(b"GREEN")
        together.wait(30)
        if session.host == "gpu-3":
            raise RemoteCommandError("a full disk")
        written.append(session.host)

    monkeypatch.setattr(StubSession, "write", write, raising=False)
    paths = InstallPaths(prefix="/p", incoming="/i", owner="root", root=True)
    fleet.context.result = ProbedHosts(install_paths=dict.fromkeys(names, paths))
    hosts = [HostSummary(name=name, state="serving", changed=True) for name in sorted(names)]
    host_summary.write_on_hosts(fleet.context, summary_of(*hosts), names)
    assert set(written) == names - {"gpu-3"}
