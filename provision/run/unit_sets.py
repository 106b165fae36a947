"""Units with their files, sent to the hosts that do not run them: the files are sent, and a playbook switches to them."""

import hashlib
import shlex
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.unit_set import UnitSet
from provision.fleet.ssh import Session
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.deb_packages import send_missing
from provision.run.results import ProbedHosts

SEND_DEADLINE_S = 120.0
FOLDER = "/etc/systemd/system"


def sums_command(folder: str, units: Collection[str]) -> str:
    """Return a command that prints the SHA-256 of each file in a folder and of each unit, then `enabled active NAME` of each unit."""
    names = " ".join(sorted(units))
    paths = " ".join(f"{FOLDER}/{name}" for name in sorted(units))
    states = 'echo "$(systemctl is-enabled "$unit") $(systemctl is-active "$unit") $unit"'
    return (
        f"cd {shlex.quote(folder)} 2>/dev/null || exit 0; sha256sum -- * {paths} 2>/dev/null; "
        f"for unit in {names}; do {states}; done"
    )


def has(said: str, files: Mapping[str, str | bytes], units: Mapping[str, str], running: Collection[str]) -> bool:
    """Return whether a host has these files and units by what `sums_command` printed there, and the units of `running` run."""
    contents = {
        name: text.encode() if isinstance(text, str) else text for name, text in (*files.items(), *units.items())
    }
    wanted = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    lines = said.splitlines()
    found = {path.rpartition("/")[2]: total for total, _, path in (line.partition("  ") for line in lines)}
    return wanted.items() <= found.items() and all(f"enabled active {name}" in lines for name in running)


def differing_sets(
    context: RunContext, probed: ProbedHosts, sets: Mapping[str, Sequence[UnitSet]], *, send: bool = False
) -> dict[str, list[UnitSet]]:
    """Return the sets of `sets` that hosts do not run as they are to be, by host; one that did not answer is missing.

    With `send`, the files of these sets are sent there.
    """

    def ask(host: Host) -> list[UnitSet]:
        session, prefix = context.session(host), probed.install_paths[host.name].prefix
        differing = [one for one in sets[host.name] if not _runs(session, prefix, one)]
        for one in differing if send else ():
            send_files(session, _incoming(one), one.files)
        return differing

    hosts = [host for host in context.hosts() if host.name in sets]
    return context.run_on_hosts("serve", hosts, ask, deadline_s=SEND_DEADLINE_S)


def _runs(session: Session, prefix: str, one: UnitSet) -> bool:
    """Return whether a host runs a set: its files and units are there, and what they set up is in effect."""
    proofs = "".join(f"{shlex.join(command)} >/dev/null 2>&1 || exit 0; " for command in one.proofs)
    said = session.run(proofs + sums_command(f"{prefix}/{one.name}/current", one.units), root=True).stdout
    return has(said, one.files, one.units, one.running)


def play_differing(
    context: RunContext, probed: ProbedHosts, playbook: str, sets: Mapping[str, Sequence[UnitSet]]
) -> dict[str, PhaseResult]:
    """Send what differs, and play a playbook with role `unit_sets` where something does. Return the result of each host that answered.

    `sets` is what each host is to run; the run holds the locks of these hosts.
    """
    differing = differing_sets(context, probed, sets, send=True)
    packages = {
        name: sorted({package for one in wanted for package in one.packages})
        for name, wanted in differing.items()
        if wanted
    }
    debs = send_missing(context, probed, packages)

    def variables(host: Host) -> dict[str, Any]:
        sent = [one.variables(_incoming(one)) for one in differing[host.name]]
        packed = {"firstlight_system_packages": packages[host.name], "firstlight_debs": debs[host.name]}
        return {**packed, "firstlight_unit_sets": sent}

    results = {
        name: PhaseResult(host=name, phase="serve", status="ok") for name, wanted in differing.items() if not wanted
    }
    ready = [context.host(name) for name in debs]
    return results | playbooks.run_playbook(context, probed, playbook, ready, variables)


def play_removal(
    context: RunContext,
    probed: ProbedHosts,
    playbook: str,
    hosts: Sequence[Host],
    absent: Sequence[tuple[str, Sequence[str]]],
) -> dict[str, PhaseResult]:
    """Stop units and remove them with their files on hosts whose locks the run holds; `absent` has name and units of each set.

    Return the result of each host where that succeeded.
    """
    removed = [{"name": name, "units": [*units]} for name, units in absent]
    variables = {"firstlight_unit_sets": [], "firstlight_unit_sets_absent": removed}
    return playbooks.run_playbook(context, probed, playbook, hosts, lambda _: variables)


def _incoming(one: UnitSet) -> str:
    """Of root, and in memory."""
    return f"/run/firstlight-{one.name}.incoming"


def send_files(session: Session, incoming: str, files: Mapping[str, str]) -> None:
    """Send files that hold keys into a new folder of root, in memory."""
    folder = shlex.quote(incoming)
    session.run(f"rm -rf {folder} && mkdir -m 700 {folder}", root=True)
    for name, text in files.items():
        session.write(f"{incoming}/{name}", text.encode(), mode=0o600, root=True)
