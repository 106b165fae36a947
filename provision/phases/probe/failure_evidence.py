"""Evidence of a failure from the host itself: journals, logs, tools. One round trip, read-only."""

import math
from dataclasses import dataclass

from provision.core.errors import RemoteCommandError
from provision.core.install_paths import unit_of
from provision.fleet.ssh import Session
from provision.phases.probe.reading import assembled
from provision.phases.probe.sections import Section, split

SECTION_BYTES = 1 << 20
"""The newest part of each source that is transferred, at most."""
COMMAND_LIMIT_S = 15
BUDGET_S = 30
DEADLINE_S = 60.0
"""For the round trip, which carries up to ten sources."""

SOURCES = (
    *("kernel", "fabric_manager", "service_journal", "service_log", "supervisor_log"),
    *("health_agent", "failed_units", "disks", "nvidia_smi", "rocm_agents"),
)
"""In the order of a start: an earlier source is more likely the cause than a later one."""


@dataclass(frozen=True)
class Source:
    """One text of a host; without text `absent` has the reason."""

    name: str
    text: str
    absent: str | None = None


def collect(
    session: Session, *, prefix: str, root: bool, service: str | None = None, since_s: float | None = None
) -> tuple[Source, ...]:
    """Read all sources of a host.

    Args:
        session: Connection to the host.
        prefix: Folder of the installation.
        root: Whether the installation is system-wide.
        service: Name of the service; None where the machine has one.
        since_s: Age of the failure in seconds; older starts of the service are left out.

    Raises:
        TransportError: The host cannot be reached.
        RemoteCommandError: The host runs no POSIX shell.
    """
    script = assembled(
        "failure_evidence.sh",
        prefix=prefix,
        unit=unit_of(service),
        limit_s=COMMAND_LIMIT_S,
        budget_s=BUDGET_S,
        bytes=str(SECTION_BYTES),
        since_s="" if since_s is None else str(math.ceil(since_s)),
    )
    answer = session.run("", stdin=script, timeout_s=DEADLINE_S, root=root)
    output = split(answer.stdout)
    if not output.nonce:
        said = " ".join((answer.stderr or answer.stdout).split())[:200] or "nothing"
        raise RemoteCommandError(
            f"host `{session.host}` gave no evidence; `sh -s` ended with {answer.rc} and said: {said}",
            hint="diagnose a log that you have: ./firstlight doctor FILE",
        )
    return tuple(_source(output[name]) for name in SOURCES)


def _source(section: Section) -> Source:
    if text := section.text.strip("\n"):
        return Source(section.name, f"{text}\n")
    return Source(section.name, "", "nothing is written there" if section.ok else section.failure)
