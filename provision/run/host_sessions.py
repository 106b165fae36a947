"""The connections of a run to its hosts, and the locks that it holds there."""

from __future__ import annotations

from functools import partial
from threading import RLock

from provision.core.models.inventory import Host
from provision.core.run_folder import RunFolder
from provision.fleet.locks import HostLock
from provision.fleet.ssh import Session, Task, fan_out, open_session

IDLE_AT_MOST = 64
"""In a run with more hosts, connections that nobody uses are closed. Each open one takes a thread, a socket and about 0.3 MB."""
CLOSE_DEADLINE_S = 15.0


class HostSessions:
    """Sessions by host, each opened at first use, and locks by host. Thread-safe."""

    def __init__(self, run: RunFolder, *, hosts: int) -> None:
        """Open nothing yet.

        Args:
            run: Where changes through the sessions are recorded.
            hosts: How many hosts the run has.
        """
        self.locks: dict[str, HostLock] = {}
        """The lock of each host that no other run may change until this one ends, by its name."""
        self._run, self._rests = run, hosts > IDLE_AT_MOST
        self._sessions: dict[str, Session] = {}
        self._guard = RLock()

    def of(self, host: Host) -> Session:
        """Return the session of a host."""
        with self._guard:
            if host.name not in self._sessions:
                self._sessions[host.name] = open_session(host)
                self._sessions[host.name].record = self._run.change
            return self._sessions[host.name]

    def rest(self, host: Host) -> None:
        """Close an idle connection where the run has more hosts than connections may stay open."""
        if self._rests:
            self.of(host).rest()

    def forget(self, host: Host) -> None:
        """Close the session of a host that may have been restarted, which ended its lock too."""
        with self._guard:
            session, lock = self._sessions.pop(host.name, None), self.locks.pop(host.name, None)
        if session is not None:
            session.close()
        if lock is not None:
            lock.close()

    def close(self) -> None:
        """Release all locks and close all sessions, many at a time: a host that does not answer delays no other."""

        def close(name: str) -> None:
            if name in self.locks:
                self.locks[name].close()
            if name in self._sessions:
                self._sessions[name].close()

        names = dict.fromkeys((*self.locks, *self._sessions))
        fan_out([Task(name, partial(close, name), deadline_s=CLOSE_DEADLINE_S, retries=0) for name in names])
