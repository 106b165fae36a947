"""Execution of the checks on a host with the environment's own Python; sends this release's tool if the host has another one."""

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
from verify.runner.time_limits import run_limit_s

GRACE_S = 30.0
"""Added to the time limit of the checks, for hosts that start slowly."""

OTHER_TOOL = 67
"""Exit code of our script if the host does not have this release's tool."""
SENT_TOOL = "verify/verify.pyz"
"""Path of this release's tool below the prefix if another release is installed, whose files stay unchanged."""
_SCRIPT = """
python={prefix}/{environment}/bin/python
[ -x "$python" ] || exit {no_environment}
for tool in {prefix}/bin/verify.pyz {prefix}/{sent}; do
    have=$(sha256sum "$tool" 2>/dev/null || :)
    [ "${{have%% *}}" != {digest} ] || exec "$python" -I "$tool" {arguments}
done
exit {other_tool}
"""
DRAIN_S = 2100.0
"""For a service that is stopped for the checks: stop, start and proof."""

COMPARE_S = 3 * DRAIN_S
"""For starting and measuring two servers, and restarting the service."""


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
    """Run the checks on a host in one round trip, or two if its tool is of another release.

    After an interruption with `drain`, call `resume`.

    Args:
        session: Connection to the host.
        prefix: Folder of the installation.
        environment: Digest of an environment that is not live yet; None for the live one.
        level: Level of the checks.
        devices: Number of devices, on which the time limit depends.
        expect: `stack`, `gpus` and `advisories`; the Stack defaults to the environment's own.
        root: Whether the checks run as root.
        drain: Whether the service is stopped for the checks.
        soak_minutes: Put load on service and kernels for this time instead.
        picked: The selected checks; the host then keeps the results of its last complete run.
        refute: Run only the failed checks of the last run, and update their results on the host.

    Raises:
        TransportError: The host cannot be reached.
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
    """Return the seconds after which a host is given up; its own time limits are shorter."""
    deepest: Level = "full" if picked and picked.only else level  # a name can select checks of every level
    return run_limit_s(deepest, devices) + GRACE_S + (DRAIN_S if drain else 0.0) + 60 * (soak_minutes or 0.0)


def resume(session: Session, *, prefix: str, root: bool = False) -> tuple[bool, str]:
    """Restart the service that interrupted checks left stopped.

    Returns:
        Whether it runs, and the message of the tool.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The tool cannot run.
    """
    done = _run_tool(session, prefix.rstrip("/"), "current", ["--resume"], stdin=None, limit_s=DRAIN_S, root=root)
    output = (done.stdout.strip() or done.stderr.strip()).splitlines()
    return done.rc == 0, output[-1] if output else f"verify.pyz ended with {done.rc}"


def compare(session: Session, *, prefix: str, words: Sequence[str], root: bool = False) -> dict[str, Any]:
    """Measure a host's service with two choices, and return the document of `verify.pyz compare`.

    After an interruption, call `resume`.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The service cannot be measured.
    """
    asked = ["compare", *words, "--json"]
    done = _run_tool(session, prefix.rstrip("/"), "current", asked, stdin=None, limit_s=COMPARE_S, root=root)
    try:
        document: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        output = done.stderr.strip().removeprefix("error: ") or f"verify.pyz ended with {done.rc}"
        text, _, hint = output.partition("\n\nhint: ")
        raise RemoteCommandError(f"host `{session.host}`: {text}", hint=hint or "./firstlight status") from None
    return document


def _run_tool(
    session: Session, prefix: str, place: str, words: Sequence[str], *, stdin: str | None, limit_s: float, root: bool
) -> Completed:
    """Run the tool with the environment's own Python; send this release's tool first if the host has another one."""
    command = tool_command(prefix, place, words)
    done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    if done.rc == OTHER_TOOL:
        session.run(f"mkdir -p {shlex.quote(f'{prefix}/verify')}", root=root)
        session.write(f"{prefix}/{SENT_TOOL}", zipapp(), mode=0o755, root=root)
        done = session.run(command, stdin=stdin, timeout_s=limit_s, root=root)
    return done


def tool_command(prefix: str, place: str, words: Sequence[str]) -> str:
    """Return the command that runs this release's tool; `place` is the environment's folder below the prefix.

    It exits with NO_ENVIRONMENT or OTHER_TOOL if one of the two is missing.
    """
    return _SCRIPT.format(
        prefix=shlex.quote(prefix),
        environment=shlex.quote(place),
        sent=SENT_TOOL,
        digest=hashlib.sha256(zipapp()).hexdigest(),
        arguments=shlex.join(words),
        no_environment=NO_ENVIRONMENT,
        other_tool=OTHER_TOOL,
    )
