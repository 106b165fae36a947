"""OS packages that a playbook needs beside those of the environment: the controller sends them where a host's sources do not answer."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provision.core import features
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseName
from provision.fleet.package_sources import dpkg_status, package_sources_answer
from provision.fleet.ssh import Session
from provision.phases.stage.debs import fetch_debs, why_not_fetched
from provision.run.context import RunContext
from provision.run.results import PlannedHosts, ProbedHosts

SEND_DEADLINE_S = 900.0
LOOK_DEADLINE_S = 90.0
_STATUS = "LC_ALL=C dpkg-query -W -f='${db:Status-Status} ${Package}\\n' "


def look(context: RunContext, planned: PlannedHosts) -> PlannedHosts:
    """Return the hosts that lack packages of features, and whose package sources do not answer. Nothing is changed."""
    wanted: dict[str, list[str]] = {}
    for needed in features.hooks("needed_packages"):
        for name, packages in needed(context.inventory.hosts).items():
            wanted.setdefault(name, []).extend(packages)
    without = context.run_on_hosts(
        "plan",
        [host for host in context.hosts() if host.name in wanted and host.name in planned.facts],
        lambda host: without_sources(context.session(host), planned.facts[host.name], wanted[host.name]),
        deadline_s=LOOK_DEADLINE_S,
    )
    why = "a bundle has none of them" if context.options.bundle else None
    notes = [_note(name, missing, planned.facts[name], why) for name, missing in without.items() if missing]
    return replace(planned, notes=tuple(notes))


def _note(name: str, missing: Sequence[str], facts: HostFacts, refused: str | None) -> str:
    refused = refused or why_not_fetched(missing, facts.os)
    how = f"this machine cannot send them: {refused}" if refused else "this machine sends them"
    return f"{name}: lacks {', '.join(missing)}, and its package sources do not answer; {how}"


def send_missing(
    context: RunContext, probed: ProbedHosts, wanted: Mapping[str, Sequence[str]], *, phase: PhaseName = "serve"
) -> dict[str, list[str]]:
    """Send the packages that hosts lack to those whose package sources do not answer, and return the names of the files by host.

    A host for which this machine cannot fetch them fails, and is missing in the answer.
    """
    bundled = context.options.bundle is not None

    def send(host: Host) -> list[str]:
        facts, session = probed.facts[host.name], context.session(host)
        if not (missing := without_sources(session, facts, wanted[host.name])):
            return []
        files = fetch_debs(missing, dpkg_status(session), facts.os, store=context.wheelhouse(), bundled=bundled)
        session.send(files, probed.install_paths[host.name].incoming)
        return [file.name for file in files]

    return context.run_on_hosts(phase, [context.host(name) for name in wanted], send, deadline_s=SEND_DEADLINE_S)


def without_sources(session: Session, facts: HostFacts, wanted: Sequence[str]) -> list[str]:
    """Return the packages that a host lacks, where its package sources do not answer; else none."""
    if not wanted or facts.os.package_manager != "apt":
        return []
    said = session.run(_STATUS + shlex.join(wanted)).stdout.splitlines()
    missing = [name for name in wanted if f"installed {name}" not in said]
    return missing if missing and package_sources_answer(session) is False else []
