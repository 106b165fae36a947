"""Before the hosts of a span start: their ports are closed to others, and they exchange numbers. What fails is not switched."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provision.core.errors import InventoryError, ServeError
from provision.core.models.inventory import Host
from provision.core.unit_set import UnitSet
from provision.features.firewall import rules
from provision.features.multinode.addresses import SpanAddresses
from provision.features.multinode.coordinator import try_together
from provision.phases.install.step import changing
from provision.report.layout import quoted
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts
from provision.run.step import Step
from provision.run.unit_sets import play_differing, play_removal


def prepare(context: RunContext, verified: VerifiedHosts) -> VerifiedHosts:
    """Load rules of firewalls for the ports of spans that are about to start, and try the exchange between their hosts.

    Rules are loaded where `firstlight_firewall` is `set`, and where those of the host do not have these ports yet. The exchange passes
    through them: where it fails, those that this run loaded are removed again.
    """
    waiting = {host.name: host for host in changing(context, verified)}
    spans = {
        host.head: [waiting[name] for name in host.span.members]
        for host in waiting.values()
        if host.span and waiting.keys() >= {*host.span.members}
    }
    loaded = _load_rules(context, verified, [host for hosts in spans.values() for host in hosts])
    for head, hosts in spans.items():
        if any(context.has_failed(host.name) for host in hosts):
            continue
        if all(verified.documents.get(host.name, {}).get("torch") for host in hosts):
            _try_exchange(context, verified, head, hosts, loaded)
    return verified


def _load_rules(context: RunContext, verified: VerifiedHosts, hosts: Sequence[Host]) -> dict[str, list[UnitSet]]:
    """Return the hosts that got rules, each with what it had of the rules that were changed.

    A host of which another one does not say from where it connects gets none: the step `firewall` warns of it.
    """
    started = time.monotonic()
    hosts = [host for host in hosts if host.is_serving and host.settings.firewall == "set"]

    def loaded(host: Host) -> str:
        command = rules.loaded_command(verified.install_paths[host.name].prefix)
        return context.session(host).run(command, root=True).stdout

    addresses = SpanAddresses(context, "verify", hosts)
    wanted = {}
    for host in [host for host in hosts if not context.has_failed(host.name) and not addresses.silent(host)]:
        try:
            rules.require_root(host, root=verified.install_paths[host.name].root)
            wanted[host.name] = addresses.openings(host, verified.facts[host.name].ports)
        except InventoryError as error:
            context.fail(host.name, "verify", error)
    before = context.run_on_hosts(
        "verify", [host for host in hosts if host.name in wanted], loaded, deadline_s=rules.READ_DEADLINE_S
    )
    sets, former = dict[str, list[UnitSet]](), dict[str, list[UnitSet]]()
    for name, said in before.items():
        if rules.covers(said, wanted[name]):
            continue
        prefix = verified.install_paths[name].prefix
        sets[name] = [rules.firewall_set(wanted[name], prefix, rules.START)]
        former[name] = []
        if said:  # what one table accepts another one still refuses
            own = rules.firewall_set(wanted[name], prefix)
            sets[name].append(replace(own, files={rules.RULES: rules.widened(said, wanted[name])}))
            former[name].append(replace(own, files={rules.RULES: said}))
    played = play_differing(context, verified, "firewall", sets)
    results = {name: result for name, result in played.items() if result.changed}
    for name, result in results.items():
        ports = ", ".join(one.ports() for one in wanted[name])
        text = f"only the hosts of its model reach port {ports} at its start"
        seconds = time.monotonic() - started
        context.record(playbooks.added_to_earlier(context, result, text, seconds, phase="verify"))
    return {name: former[name] for name in results}


def _try_exchange(
    context: RunContext,
    verified: VerifiedHosts,
    head: str,
    hosts: Sequence[Host],
    loaded: Mapping[str, Sequence[UnitSet]],
) -> None:
    """Fail the hosts of a span that exchange no numbers, or wrong ones: their servers would wait for each other.

    A trial that could not tell fails nobody, nor does one of NCCL alone: the cards may be in use by what serves now.
    """
    record = try_together(context, verified, hosts, verified.desired)
    context.run.write(f"verify/span-{head}.json", {"checks": [record]})
    is_wrong, is_closed = record["status"] == "fail", not record["evidence"].get("settings")
    if not (is_wrong or (is_closed and record["status"] == "warn")):
        return
    protected = [host for host in hosts if host.name in loaded]
    play_removal(context, verified, "firewall", protected, [(rules.START.name, (rules.START.unit,))])
    play_differing(context, verified, "firewall", {host.name: loaded[host.name] for host in protected})
    named = quoted(host.name for host in hosts)
    text = f"hosts {named} are to serve one model together, and do not exchange numbers: {record['reason']}"
    hint = record["remedy"] or "open all ports between them"
    if protected:
        hint += "; the rules that this run loaded into their firewalls are removed again"
    for host in hosts:
        context.fail(host.name, "verify", ServeError(text, hint=hint))


STEP = Step(
    "span-start",
    prepare,
    "verify",
    applies=lambda run: any(host.span for host in run.inventory.hosts),
    in_batches=True,
    after="verify",
)
