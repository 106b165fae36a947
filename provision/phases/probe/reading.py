"""The probe of a host: send the script and receive facts in one round trip."""

import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path

from provision.core.errors import RemoteCommandError
from provision.core.install_paths import prefix_of, unit_of
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.fleet.ssh import Session
from provision.fleet.ssh.script import script_of
from provision.phases.probe.assemble import CUT, parse
from provision.phases.probe.parsers.configuration import sysctl_files

DEADLINE_S = 20.0
"""Seconds for the whole round trip; the script skips sections well before."""
COMMAND_LIMIT_S = 10
BUDGET_S = 14
_HERE = Path(__file__).parent
_OURS = ("group_product",)
"""Groups of sections that the login user may not read when another user owns the installation."""
IN_FULL = "group_in_full"
"""systemd's state and the listening ports: few decisions need them, and both take a host time."""
CONFIGURATION = "group_configuration"
"""Packages, settings and services."""


def script(
    *,
    prefix: str | None,
    service: str | None = None,
    python: str | None = None,
    groups: Sequence[str] = (),
    more: Collection[str] = (),
    nonce: str | None = None,
    command_limit_s: int = COMMAND_LIMIT_S,
    budget_s: int = BUDGET_S,
) -> str:
    """Return the script for the standard input of `sh -s`, with its parameters in front.

    Args:
        service: Name of the service, which the default prefix ends with; None where the machine has one.
        python: Interpreter that is reported in addition to those found.
        groups: Groups of sections that run; all of them when empty.
        more: Groups that run in addition: IN_FULL, CONFIGURATION.
    """
    return assembled(
        "probe.sh",
        nonce=nonce,
        prefix=prefix or "",
        service=service or "",
        unit=unit_of(service),
        limit_s=command_limit_s,
        budget_s=budget_s,
        python=python or "",
        groups=" ".join(groups),
        more=" ".join(sorted(more)),
        sysctl=" ".join(sysctl_files() if CONFIGURATION in more else ()),
    )


def assembled(
    name: str, *, nonce: str | None = None, prefix: str = "", limit_s: int, budget_s: int, **parameters: str
) -> str:
    """Return a script that reads a host: parameters, frame, and its own sections, which run last. Its comments stay here.

    Args:
        name: The file.
        nonce: The mark of the script's own lines; None for a new one.
        prefix: Folder of the installation; empty for the default of the user that runs the script.
        limit_s: Seconds for each command.
        budget_s: Seconds for all of them.
        parameters: The script's own parameters.
    """
    frame = {"nonce": nonce or secrets.token_hex(8), "prefix": prefix}
    limits = {"limit_s": str(limit_s), "budget_s": str(budget_s)}
    return script_of(_HERE / "frame.sh", _HERE / name, **frame, **limits, **parameters)


def probe(host: Host, session: Session, *, more: Collection[str] = ()) -> HostFacts:
    """Read a host in one round trip as the login user.

    A second round trip as root reads the parts of the installation that the login user may not read.

    Args:
        host: The host; without a prefix in its settings, the default of the user that will own the installation is read.
        session: Connection to the host.
        more: What is read in addition: IN_FULL, CONFIGURATION.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The host runs no POSIX shell, or one that prints, which would get into files that are read.
    """
    is_known = host.settings.prefix or host.connection.become
    wanted = prefix_of(host, uid=0, home="") if is_known else None
    service = host.service.name if host.service else None
    sent, nonce = time.time(), secrets.token_hex(8)
    text = script(prefix=wanted, service=service, python=host.settings.python, more=more, nonce=nonce)
    answer = session.run("", stdin=text, timeout_s=DEADLINE_S)
    received = time.time()
    facts = parse(host.name, answer.stdout, sent_unix_s=sent, received_unix_s=received)
    if facts.unknown.get("host") == CUT:
        raise RemoteCommandError(
            f"host `{host.name}`: the probe's answer was cut after {len(answer.stdout)} characters; `sh -s` ended with {answer.rc}",
            hint="run it again; if it comes back, look for what ends commands on the host: limits, a full disk, a login script",
        )
    if "host" in facts.unknown or not answer.stdout.startswith("@@"):
        said = " ".join(f"{answer.stderr} {answer.stdout.partition('@@')[0]}".split())[:200] or "nothing"
        raise RemoteCommandError(
            f"host `{host.name}`: the probe got no answer, or something besides it; `sh -s` ended with {answer.rc} and said: {said}",
            hint=f"check that the login shell of {facts.user.name or 'the user'} runs commands and prints nothing, as from ~/.bashrc: ssh {host.connection.address or host.name} true",
        )
    if not host.connection.become or facts.user.uid == 0 or not _hidden(facts):
        return facts
    text = script(prefix=wanted, service=service, groups=_OURS, nonce=nonce)
    try:
        as_root = session.run("", stdin=text, timeout_s=DEADLINE_S, root=True)
    except RemoteCommandError as refused:
        # The probe does not require root; a phase that changes the host reports the same refusal.
        return facts.model_copy(
            update={"unknown": facts.unknown | {key: f"{facts.unknown[key]}; {refused.text}" for key in _hidden(facts)}}
        )
    return parse(host.name, answer.stdout, sent_unix_s=sent, received_unix_s=received, as_root=as_root.stdout)


def _hidden(facts: HostFacts) -> list[str]:
    """Return facts of the installation that the login user may not read."""
    return [key for key, why in facts.unknown.items() if key.startswith("installed.") and "permission" in why]
