"""One round trip to a host: the script goes in, facts come out."""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING

from provision.errors import RemoteCommandError
from provision.models.facts import HostFacts
from provision.models.settings import default_prefix
from provision.probe.assemble import parse

if TYPE_CHECKING:
    from provision.models.settings import Host
    from provision.remote import Session

DEADLINE_S = 20.0
"""For the whole round trip; the script gives up sections well before."""
COMMAND_LIMIT_S = 10
BUDGET_S = 14


def script(
    *,
    prefix: str | None,
    paths: Sequence[str] = (),
    python: str | None = None,
    nonce: str | None = None,
    command_limit_s: int = COMMAND_LIMIT_S,
    budget_s: int = BUDGET_S,
) -> str:
    """The script for the standard input of `sh -s`, with its parameters in front.

    `paths` are those whose disks matter besides `/`, the prefix, the home and /var/tmp;
    `python` is an interpreter that is looked at beside those that are found.
    """
    parameters = {
        "FL_NONCE": nonce or secrets.token_hex(8),
        "FL_PREFIX": prefix or "",
        "FL_PATHS": "\n".join(paths),
        "FL_PYTHON": python or "",
        "FL_LIMIT_S": str(command_limit_s),
        "FL_BUDGET_S": str(budget_s),
    }
    return assembled("probe.sh", parameters)


def assembled(name: str, parameters: Mapping[str, str]) -> str:
    """A script that reads a host: its parameters, the frame, and its own sections, which run last of all."""
    head = "".join(f"{key}={shlex.quote(value)}\n" for key, value in parameters.items())
    folder = resources.files("provision.probe")
    return head + "".join(folder.joinpath(part).read_text(encoding="utf-8") for part in ("frame.sh", name))


def probe(host: Host, session: Session, *, prefix: str | None = None, paths: Sequence[str] = ()) -> HostFacts:
    """Read a host in one round trip, as the login user.

    `prefix` defaults to the host's setting, then to the default of the user that will own the installation.
    Raises TransportError when the host cannot be reached, RemoteCommandError when it runs no POSIX shell.
    """
    wanted = prefix or host.settings.prefix
    if wanted is None and host.connection.become:
        wanted = str(default_prefix(uid=0, home=""))
    sent = time.time()
    text = script(prefix=wanted, paths=paths, python=host.settings.python)
    answer = session.run("sh -s", stdin=text, timeout_s=DEADLINE_S)
    received = time.time()
    facts = parse(host.name, answer.stdout, sent_unix_s=sent, received_unix_s=received)
    if "host" in facts.unknown:
        said = " ".join((answer.stderr or answer.stdout).split())[:200] or "nothing"
        raise RemoteCommandError(
            f"host `{host.name}`: the probe got no answer; `sh -s` ended with {answer.rc} and said: {said}",
            hint=f"check that the login shell of {facts.user.name or 'the user'} runs commands: ssh {host.connection.address or host.name} true",
        )
    return facts
