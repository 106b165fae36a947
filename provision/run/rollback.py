"""Switches back to earlier releases: on command, and by itself where a start failed."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from provision.core import features
from provision.core.errors import ServeError, UsageError
from provision.core.json_text import parse_object
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import ReleaseRecord
from provision.phases.stage import builds_in
from provision.run import playbooks, proof, spans
from provision.run.context import RunContext, left_out
from provision.run.host_changes import release_changes
from provision.run.results import ProbedHosts

READ_DEADLINE_S = 60.0
DIGEST_LENGTH = 16
AGAIN = "correct what was refused, then ./firstlight provision: it tries that release again"


def require_digest(text: str) -> str:
    """Return the digest of a release.

    Raises:
        UsageError: It is none.
    """
    if len(text) == DIGEST_LENGTH and set(text) <= set("0123456789abcdef"):
        return text
    raise UsageError(
        f"`{text}` is no digest of a release; a digest has {DIGEST_LENGTH} hexadecimal digits",
        hint="./firstlight status names the releases of each host",
    )


def roll_back(context: RunContext, probed: ProbedHosts, *, to: str | Mapping[str, str] | None = None) -> ProbedHosts:
    """Switch each host to an earlier release, restart, and prove it.

    `to` is the digest of the release, or of that of each host; None stands for the one before.
    """
    started = time.monotonic()
    wanted = dict.fromkeys((host.name for host in context.hosts()), to) if isinstance(to, str) else to or {}
    for host in context.hosts():
        if error := _missing(probed.facts[host.name], wanted.get(host.name)):
            context.fail(host.name, "serve", error)
    spans.refuse_parts(context, "serve")
    hosts = playbooks.acquire_locks(context, probed, "serve", context.hosts())
    switched = playbooks.run_playbook(
        context, probed, "rollback", hosts, lambda host: {"service_rollback_to": wanted.get(host.name, "")}
    )
    states = live_states(context, probed, [host for host in hosts if host.name in switched])
    for name, state in states.items():
        installed = probed.facts[name].installed
        before = (installed.state if installed else None) or {}
        changes = release_changes(before, state, partial(builds_in, context.wheelhouse()))
        note_release(context, name, ReleaseRecord(release=state.get("release"), rolled_back=changes))
        if not state:
            error = ServeError(
                f"host `{name}`: {probed.install_paths[name].prefix}/state.json cannot be read after the switch",
                hint=f"install again: ./firstlight provision --limit {name}",
            )
            context.fail(name, "serve", error)
        elif _request_of(state) is None:
            context.record(switched[name])
    # One that failed keeps its release: the others of its span would wait for it.
    spans.refuse_parts(context, "serve", switched=True)
    there = {host.name for host in context.hosts()}
    requests = {name: request for name, state in states.items() if name in there and (request := _request_of(state))}
    proof.prove(context, probed, requests, switched, started)
    # A playbook that changed nothing before it failed has refused to switch: there is nothing to return from.
    begun = [
        host.name for host in hosts if host.name in switched or context.outcomes.results[host.name]["serve"].changed
    ]
    tried = {name: states.get(name, {}).get("release", wanted.get(name)) for name in begun}
    former = return_refused(context, probed, tried)
    out = {host.name: left_out(context.run.logs, host, probed.facts.get(host.name)) for host in context.inventory.hosts}
    served = [
        name
        for name in requests
        if readiness_of(states[name]) and (name in former or not context.has_failed(name)) and out[name] is None
    ]
    features.call("served_again", context, served)
    prune(context, probed, {name: release for name, release in tried.items() if release and name in switched})
    context.outcomes.left_out |= {name: reason for name, reason in out.items() if reason}
    return probed


def _missing(facts: HostFacts, to: str | None) -> ServeError | None:
    """Return the error of a release that a host does not have, or of a host without an installation or an earlier release."""
    installed = facts.installed
    if installed is None or not (installed.current or installed.releases):
        return ServeError(f"host `{facts.host}`: nothing is installed there", hint="install: ./firstlight provision")
    there = installed.releases
    if to is None and not installed.previous and len(there) < 2:
        return ServeError(
            f"host `{facts.host}`: there is no earlier release; nothing was changed",
            hint="the next `provision` that changes what is served keeps the release before it",
        )
    if to is None or to in there:
        return None
    return ServeError(
        f"host `{facts.host}`: there is no release `{to}`; the host has {', '.join(map('`{}`'.format, there)) or 'none'}",
        hint="only the current and the previous release are kept; to the previous one: ./firstlight rollback",
    )


def return_refused(context: RunContext, probed: ProbedHosts, tried: Mapping[str, str | None]) -> set[str]:
    """Return hosts whose start failed to the release that was proven before, and prove that one again.

    The hosts stay failed: the release that was asked for does not serve. `tried` is the release that each was to serve, None where that
    is not known. The answer is the hosts that serve the release before again, as a proof shows.
    """
    ended = {name: context.outcomes.results.get(name, {}).get("serve") for name in tried}
    refused = {name: result for name, result in ended.items() if result is not None and result.status == "failed"}
    hosts = [
        host
        for host in context.inventory.hosts
        if host.name in refused
        and host.settings.on_failure == "rollback"
        and may_return(probed.facts[host.name], tried[host.name])
    ]
    for host in hosts:
        context.progress.note(host.name, "the start failed: returns to the release that served before")
    switched = playbooks.run_playbook(context, probed, "rollback", hosts, lambda _: {"service_rollback": "unproven"})
    states = live_states(context, probed, [host for host in hosts if host.name in switched])
    back = {name: state for name, state in states.items() if state.get("release") not in (None, tried[name])}
    requests = {name: request for name, state in back.items() if (request := _request_of(state)) is not None}
    records = proof.ask_in_order(context, probed, requests)
    for name in (host.name for host in hosts):
        first, last = refused[name], context.outcomes.results[name]["serve"]
        former = back.get(name, {}).get("release")
        if name in records:
            fault = records[name].text
            text = f"release `{former}` serves again, its answers are right"
            if fault is not None:
                text = f"release `{former}` was started again, and does not serve either: {fault}"
        elif last is not first:
            text = f"the return to the release before failed: {last.text}"
        else:  # nothing was proven before
            continue
        note_release(context, name, ReleaseRecord(release=former, refused=tried[name]))
        context.run.event("returned", host=name, phase="serve", release=former, refused=tried[name], text=text)
        what = f"release `{tried[name]}`" if tried[name] else "the release of the rollback"
        changed = first.changed or (name in switched and switched[name].changed)
        text = f"{what} was refused: {first.text}; {text}"
        context.reject(first.model_copy(update={"text": text, "hint": AGAIN, "changed": changed}))
    return {name for name, record in records.items() if record.ready}


def may_return(facts: HostFacts, tried: str | None) -> bool:
    """Return whether a host may have served another release before this one, which was never proven."""
    installed = facts.installed
    if installed is None or installed.current is None:
        return False
    return tried is None or installed.release != tried or (installed.last_ready or {}).get("release") != tried


def prune(context: RunContext, probed: ProbedHosts, live: Mapping[str, str]) -> None:
    """Remove what no release needs any more, where `live` was proven and more than both ends of the switch to it are there."""

    def has_more(host: Host) -> bool:
        """Return whether a host had more than one release before."""
        if host.name not in live or (installed := probed.facts[host.name].installed) is None:
            return False
        return bool(set(installed.releases) - {live[host.name], installed.release})

    hosts = [host for host in context.hosts() if has_more(host)]
    hosts = playbooks.acquire_locks(context, probed, "serve", hosts)
    playbooks.run_playbook(context, probed, "prune", hosts)


def note_release(context: RunContext, name: str, record: ReleaseRecord) -> None:
    """Write what a host serves into the run's folder."""
    context.run.write(f"release/{name}.json", record)


def live_states(context: RunContext, probed: ProbedHosts, hosts: Sequence[Host]) -> dict[str, dict[str, Any]]:
    """Read the state that each host reached; empty for a host that has none."""

    def read(host: Host) -> dict[str, Any]:
        paths = probed.install_paths[host.name]
        try:
            return parse_object(context.session(host).read(f"{paths.prefix}/state.json", root=paths.root))
        except (FileNotFoundError, ValueError):
            return {}

    return context.run_on_hosts("serve", hosts, read, deadline_s=READ_DEADLINE_S)


def _request_of(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what proves a release on a host, also on one of a span whose head alone answers clients."""
    return readiness_of(state) or state.get("member")


def readiness_of(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a release has to answer; None where it serves nothing."""
    readiness = state.get("readiness")
    return readiness if isinstance(readiness, dict) else None
