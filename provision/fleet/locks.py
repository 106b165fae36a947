"""Host lock: at most one run changes a host at a time.

A process on the host takes `flock` on PREFIX/lock and answers each line of its standard input. The kernel keeps the lock for as
long as the controller's connection lives. When the controller releases the lock, dies or loses the connection, the input ends,
the process ends and the lock is free. A connection may break without a word to the host: then the lock is free when the host
notices it. A host that loses its power keeps both files; the next run removes them. PREFIX/lock.json names the run that has the lock; it is information for people and decides nothing.
"""

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from provision.core.errors import HostLockedError, RemoteCommandError
from provision.core.run_folder import account, utc_now
from provision.fleet.ssh import Session
from provision.fleet.ssh.process import Channel
from provision.fleet.ssh.script import script_of
from provision.fleet.ssh.sudo import become_password, checked_stderr

_SCRIPT = Path(__file__).with_name("lock.sh")
ANSWER_DEADLINE_S = 20.0


def describe_holder(holder: dict[str, Any]) -> str:
    """Return one phrase for the run that has the lock: run, user, controller, process, start."""
    return (
        f"run {holder.get('run', '?')} of {holder.get('user', '?')}@{holder.get('controller', '?')} "
        f"(process {holder.get('pid', '?')}) since {holder.get('since', '?')}"
    )


class _HeldByThisRunError(HostLockedError):
    """The lock is this run's, by a connection that broke here and not yet on the host."""


class HostLock:
    """The lock that a run has on a host, taken when this is made, and free after `close`.

    Args:
        session: Connection to the host; it must stay open for as long as the lock is needed.
        prefix: Installation prefix on the host.
        run: Name of this run, shown to other runs.

    Raises:
        HostLockedError: Another run has the lock.
        RemoteCommandError: The prefix cannot be written, the host has no `flock`, or sudo refused.
        TransportError: The host cannot be reached.
    """

    def __init__(self, session: Session, *, prefix: str, run: str, root: bool) -> None:
        self._session, self._prefix, self._root = session, prefix, root
        self._record = {
            "run": run,
            "controller": os.uname().nodename,
            "user": account(),
            "pid": os.getpid(),
            "since": utc_now(),
        }
        self._script = script_of(_SCRIPT, prefix=prefix, holder=json.dumps(self._record))
        self._channel = self._take()
        self._renewing = threading.Lock()

    def close(self) -> None:
        """Release the lock; may be called again."""
        self._channel.close()

    def renew(self) -> bool:
        """Take the lock anew if the host has released it: it was restarted, or the connection broke.

        Returns:
            Whether it had to be taken.

        Raises:
            HostLockedError: Another run has the lock now.
            RemoteCommandError: As when it is made.
            TransportError: The host cannot be reached.
        """
        with self._renewing:  # a playbook in the background may begin at the same time
            with contextlib.suppress(OSError, EOFError, ValueError):  # the last one: it was closed here before
                self._channel.writeline("")
                if self._channel.readline(timeout_s=ANSWER_DEADLINE_S) == "held":
                    return False
            self.close()
            try:
                self._channel = self._take()
            except _HeldByThisRunError:
                return False
            return True

    def _take(self) -> Channel:
        channel = self._session.open_channel(self._script, root=self._root)
        try:
            self._check_taken(channel)
        except BaseException:
            channel.close()
            raise
        return channel

    def _check_taken(self, channel: Channel) -> None:
        answer = channel.readline(timeout_s=ANSWER_DEADLINE_S).strip()
        if answer == "busy":
            holder: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                holder = json.loads(channel.readline(timeout_s=ANSWER_DEADLINE_S))
            kind = _HeldByThisRunError if holder == self._record else HostLockedError
            raise kind(
                f"host `{self._session.host}` is locked by {describe_holder(holder)}",
                hint=f"wait for that run, or end its process on the controller named: this ends the lock. If that machine is gone, end the process on the host: fuser -v {self._prefix}/lock",
            )
        if answer != "locked":
            if (said := channel.error_text()) and self._root:
                had_password = become_password(self._session.connection) is not None
                said = checked_stderr(self._session.host, said.encode(), had_password=had_password).decode()
            raise RemoteCommandError(
                f"host `{self._session.host}`: the lock in `{self._prefix}` could not be taken: {answer or said}",
                hint="check that this folder can be written and that `flock` (util-linux) is installed there",
            )
