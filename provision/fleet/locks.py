"""One run at a time on a host: a lock that the host's kernel holds for exactly as long as the controller's connection lives.

A process on the host takes `flock` on PREFIX/lock and reads its standard input. When the controller lets go, dies or is
cut off, that input ends, the process ends, and the lock is free: there is no stale lock to clean up. PREFIX/lock.json
says who holds it; it informs people and decides nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from provision.core.errors import HostLockedError, RemoteCommandError
from provision.core.run_folder import account, utc_now
from provision.fleet.ssh import Session

_SCRIPT = """
set -u
prefix={prefix} held=no
umask 022
command -v flock >/dev/null 2>&1 || {{ echo "no-flock"; exit 69; }}
# Its last holder takes the file away: a lock on what is no longer there would keep nobody out.
while :; do
  mkdir -p "$prefix" || exit 73
  exec 9>>"$prefix/lock" || exit 73
  flock -n 9 || break
  if [ ! -e /proc/self/fd/9 ] || [ "$prefix/lock" -ef /proc/self/fd/9 ]; then held=yes; break; fi
done
if [ "$held" = yes ]; then
  printf '%s\\n' {record} > "$prefix/lock.json"
  echo held
  while read -r _; do :; done
  rm -f "$prefix/lock.json" "$prefix/lock"
else
  echo busy
  tr -d '\\n' < "$prefix/lock.json" 2>/dev/null
  echo
fi
"""

ANSWER_DEADLINE_S = 20.0


def record(run: str) -> dict[str, Any]:
    """Who is about to hold a host."""
    return {
        "run": run,
        "controller": platform.node(),
        "user": account(),
        "pid": os.getpid(),
        "since": utc_now(),
    }


def describe(holder: dict[str, Any]) -> str:
    """A holder in words."""
    return (
        f"run {holder.get('run', '?')} of {holder.get('user', '?')}@{holder.get('controller', '?')} "
        f"(process {holder.get('pid', '?')}) since {holder.get('since', '?')}"
    )


@contextmanager
def hold(session: Session, *, prefix: str, run: str, root: bool) -> Iterator[None]:
    """Hold a host for the length of the block.

    Raises HostLockedError when another run holds it, RemoteCommandError when the prefix cannot be written.
    """
    script = _SCRIPT.format(prefix=shlex.quote(prefix), record=shlex.quote(json.dumps(record(run))))
    channel = session.open_channel(script, root=root)
    try:
        answer = channel.readline(timeout_s=ANSWER_DEADLINE_S).strip()
        if answer == "busy":
            holder: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                holder = json.loads(channel.readline(timeout_s=ANSWER_DEADLINE_S))
            raise HostLockedError(
                f"host `{session.host}` is held by {describe(holder)}",
                hint="wait for that run, or end its process on the controller named; the lock ends with it",
            )
        if answer != "held":
            raise RemoteCommandError(
                f"host `{session.host}`: could not take the lock in `{prefix}`: {answer or channel.error_text()}",
                hint="check that the prefix can be written and that `flock` (util-linux) is installed there",
            )
        yield
    finally:
        channel.close()
