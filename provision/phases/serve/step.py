"""The phase `serve`: what was verified goes live, and its answers are checked."""

import time
from collections.abc import Collection, Sequence
from typing import Protocol

from provision.core import features
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult, ReleaseRecord, ServeRecord
from provision.phases.install.step import changing
from provision.phases.verify.step import check_again
from provision.run import playbooks, rollback, spans
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.proof import prove
from provision.run.results import StagedHosts, VerifiedHosts


class StartPart(Protocol):
    """The part of a feature in the starts of a run, which its hook `starts` returns."""

    def turns(self, wave: Sequence[Host], /) -> list[list[Host]]:
        """Return hosts that may start together in the order in which they start: at least one list."""

    def before(self, hosts: Sequence[Host], /) -> list[Host]:
        """Prepare hosts that start next; return those of them that may."""

    def after(self, hosts: Sequence[Host], /, *, serving: Collection[str], proven: Collection[str]) -> None:
        """Act on hosts that were started, or found in the desired state.

        `serving` are those of them that serve, be it with the release before, and `proven` all whose services were proven in this run.
        """


def serve(context: RunContext, verified: VerifiedHosts, *, again: Collection[str] = ()) -> VerifiedHosts:
    """Switch to the verified release, start its service, and prove that its answers are right.

    Where the start fails, the host returns to the release that served before, if its settings say so.

    Args:
        again: Hosts that are asked for the state they have already, so that they do not restart.
    """
    started = time.monotonic()
    spans.refuse_parts(context, "serve")
    releases = {host.name: verified.desired[host.name].state["release"] for host in context.hosts()}
    switching = changing(context, verified)
    unchanged = [host for host in context.hosts() if host.name in verified.up_to_date]
    unproven = [host for host in unchanged if not proven(verified.desired[host.name], verified.facts[host.name])]
    for host in unchanged:
        if host not in unproven:
            installed = verified.facts[host.name].installed
            # It stays valid for a service that has run ever since.
            if record := ((installed.last_ready if installed else None) or {}).get("record"):
                context.run.write(f"serve/{host.name}.json", record)
            text = "serves since its answers were verified" if serves(verified, host.name) else "nothing to serve"
            context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
    parts: list[StartPart] = [hook(context, verified, switching, still=again) for hook in features.hooks("starts")]
    waves = _turns(parts, switching)
    restarted: dict[str, PhaseResult] = {}
    records: dict[str, ServeRecord] = {}
    for wave in waves:
        hosts = wave
        for part in reversed(parts):  # what is first after a start is last before it
            hosts = part.before(hosts)
        done = playbooks.run_playbook(
            context, verified, "serve", hosts, lambda host: verified.desired[host.name].ansible_vars()
        )
        # One that failed keeps its release: the others of its span would wait for it.
        spans.refuse_parts(context, "serve", switched=True)
        for host in hosts:
            # After a failed playbook nobody has seen which release the host has.
            release = releases[host.name] if host.name in done else None
            rollback.note_release(context, host.name, ReleaseRecord(release=release))
        for name, result in done.items():
            if not serves(verified, name):
                context.record(result)
        # What was found unproven is proven while the first hosts start.
        names = {*done, *(host.name for host in (unproven if wave is waves[0] else ()))}
        requests = {
            host.name: request
            for host in context.hosts()
            if host.name in names and (request := verified.desired[host.name].readiness) is not None
        }
        records |= prove(context, verified, requests, done, started)
        settled = [*hosts, *(unchanged if wave is waves[0] else ())]
        former = rollback.return_refused(context, verified, {host.name: releases[host.name] for host in settled})
        serving = {host.name for host in settled if host.name in former or not context.has_failed(host.name)}
        for part in parts:
            part.after(settled, serving=serving, proven={name for name, record in records.items() if record.ready})
        restarted |= done
    rollback.prune(context, verified, {name: releases[name] for name in (*restarted, *records)})
    check_again(context, verified, [host.name for host in context.hosts() if host.name in restarted])
    return verified


def _turns(parts: Sequence[StartPart], hosts: Sequence[Host]) -> list[list[Host]]:
    found = [[*hosts]]
    for part in parts:
        found = [turn for wave in found for turn in part.turns(wave)]
    return found


def serves(verified: StagedHosts, name: str) -> bool:
    """Return whether a host is to serve at all."""
    return verified.desired[name].service.supervisor != "none"


def proven(desired: Desired, facts: HostFacts) -> bool:
    """Return whether the last proof was of the service process that runs now."""
    if desired.service.supervisor == "none":
        return True
    installed = facts.installed
    ready = (installed.last_ready if installed else None) or {}
    if installed is None or "model" not in (ready.get("record") or {}):  # earlier versions did not say what is served
        return False
    process = (installed.service_pid, installed.service_start_ticks, facts.os.boot_id)
    return (ready.get("main_pid"), ready.get("start_ticks"), ready.get("boot_id")) == process
