"""Runs the checks on a host by the environment's own Python, this release's tool brought there first where it is not."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from provision.core.errors import RemoteCommandError
from provision.fleet.ssh import Completed, Session
from provision.phases.verify.selection import Picked
from provision.phases.verify.tool import zipapp
from provision.phases.verify.tool_output import NO_ENVIRONMENT, Verified, broken, read
from verify.records import Level
from verify.time_limits import run_limit_s

GRACE_S = 30.0
"""Beyond the time that the checks may take, for a host that is slow to begin."""

OTHER_TOOL = 67
"""Exit code of our own command where the host has not this release's tool."""
BROUGHT = "verify/verify.pyz"
"""Where a release puts its tool under the prefix while another one is installed: what is installed stays as that one sealed it."""
_SCRIPT = """
python={prefix}/{environment}/bin/python
[ -x "$python" ] || exit {no_environment}
for tool in {prefix}/bin/verify.pyz {prefix}/{brought}; do
    have=$(sha256sum "$tool" 2>/dev/null || :)
    [ "${{have%% *}}" != {digest} ] || exec "$python" -I "$tool" {arguments}
done
exit {other_tool}
"""
DRAIN_S = 2100.0
"""For a service that is stopped for the checks: to end, to start again and to be proven ready."""

COMPARE_S = 3 * DRAIN_S
"""For two servers to start and to be measured, and for the service to come back."""


def verify(
    session: Session,
    *,
    prefix: str,
    environment: str | None = None,
    level: Level = "standard",
    devices: int = 1,
    expect: Mapping[str, Any] | None = None,
    root: bool = False,
    drain: bool = False,
    soak_minutes: float | None = None,
    picked: Picked | None = None,
    refute: bool = False,
) -> Verified:
    """Run the checks on a host in one round trip, and a second one when its tool is not this release's.

    `environment` is the digest of one that is not live yet; null is the live one. `devices` is how many the host has: the
    time that it is given grows with them. `expect` holds `stack` and `gpus`;
    a Stack that is not in it is the environment's own. With `drain` the service is stopped meanwhile: after an
    interruption call `resume`. With `soak_minutes` the service and the kernels are asked again and again for so long,
    in place of the checks. Where checks were picked, the host keeps the results of its last whole run; with `refute` those alone run
    that stand as failed there, and the host keeps what they say. Raises TransportError.
    """
    prefix = prefix.rstrip("/")
    place = f"envs/{environment}" if environment else "current"
    if soak_minutes is not None:
        words = ["soak", "--minutes", f"{soak_minutes:g}", "--json"]
    else:
        words = ["--level", level, "--json"]
        words += ["--refute"] if refute else []
        words += picked.words if picked else ["--write", f"{prefix}/verify/last.json"]
        words += [*(["--expect", "-"] if expect else []), *(["--drain"] if drain else [])]
    asked = json.dumps(dict(expect)) if expect else None
    limit_s = time_limit_s(level, devices, drain=drain, soak_minutes=soak_minutes, picked=picked)
    try:
        done = _run_tool(session, prefix, place, words, stdin=asked, limit_s=limit_s, root=root)
    except RemoteCommandError as error:
        return broken(session.host, error.text, remedy=error.hint)
    return read(session.host, done, environment=f"{prefix}/{place}")


def time_limit_s(
    level: Level, devices: int, *, drain: bool = False, soak_minutes: float | None = None, picked: Picked | None = None
) -> float:
    """Seconds after which a host is given up that still checks; it ends its own checks before that."""
    deepest: Level = "full" if picked and picked.only else level  # a name reaches checks of every level
    return run_limit_s(deepest, devices) + GRACE_S + (DRAIN_S if drain else 0.0) + 60 * (soak_minutes or 0.0)


def resume(session: Session, *, prefix: str, root: bool = False) -> tuple[bool, str]:
    """Have the service back that checks stopped and that an interruption left so: whether it is, and how that went.

    Raises TransportError, RemoteCommandError.
    """
    done = _run_tool(session, prefix.rstrip("/"), "current", ["--resume"], stdin=None, limit_s=DRAIN_S, root=root)
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.rc == 0, said[-1] if said else f"verify.pyz ended with {done.rc}"


def compare(session: Session, *, prefix: str, words: Sequence[str], root: bool = False) -> dict[str, Any]:
    """Measure a host's service with one choice and with another: the document of `verify.pyz compare`.

    After an interruption call `resume`. Raises TransportError, and RemoteCommandError when it cannot be measured.
    """
    asked = ["compare", *words, "--json"]
    done = _run_tool(session, prefix.rstrip("/"), "current", asked, stdin=None, limit_s=COMPARE_S, root=root)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().removeprefix("error: ") or f"verify.pyz ended with {done.rc}"
        text, _, hint = said.partition("\n\nhint: ")
        raise RemoteCommandError(f"host `{session.host}`: {text}", hint=hint or "./firstlight status") from None
    return document


def _run_tool(
    session: Session, prefix: str, place: str, words: Sequence[str], *, stdin: str | None, limit_s: float, root: bool
) -> Completed:
    """Run the tool by the environment's own Python, this release's brought first where only another one is."""
    command = tool_command(prefix, place, words)
    done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    if done.rc == OTHER_TOOL:
        session.run(f"mkdir -p {shlex.quote(f'{prefix}/verify')}", root=root)
        session.write(f"{prefix}/{BROUGHT}", zipapp(), mode=0o755, root=root)
        done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    return done


def tool_command(prefix: str, place: str, words: Sequence[str]) -> str:
    """The command that runs this release's tool by an environment's own Python; `place` is the environment below the prefix.

    It ends with NO_ENVIRONMENT or OTHER_TOOL where one of the two is not there.
    """
    return _SCRIPT.format(
        prefix=shlex.quote(prefix),
        environment=shlex.quote(place),
        brought=BROUGHT,
        digest=hashlib.sha256(zipapp()).hexdigest(),
        arguments=shlex.join(words),
        no_environment=NO_ENVIRONMENT,
        other_tool=OTHER_TOOL,
    )
