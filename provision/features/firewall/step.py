"""Firewall of the hosts behind a gateway, and of those of spans: rules are loaded where the settings say so, else the run writes them into a file."""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from provision.core import features
from provision.core.errors import InventoryError, ServeError
from provision.core.files import write_atomically
from provision.core.grouping import gather
from provision.core.models.inventory import Host
from provision.core.models.records import PhaseResult
from provision.core.unit_set import UnitSet
from provision.features.firewall import rules
from provision.fleet.inventory.addresses import address_from, metrics_bind
from provision.report.layout import fold_names
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import HostsT, ProbedHosts
from provision.run.served import Served, ask_served
from provision.run.step import Step
from provision.run.unit_sets import differing_sets, play_differing, play_removal


@dataclass(frozen=True)
class _Rules:
    """What one host is to accept."""

    host: Host
    served: Served | None
    """What it serves; None where another host of its span answers for it."""
    openings: tuple[rules.Opening, ...]


def wants_rules(context: RunContext) -> bool:
    """Return whether the inventory has hosts for which a firewall is set."""
    return any(host.span or host.is_gateway or host.is_monitoring for host in context.inventory.hosts)


def with_rules(inventory: Sequence[Host], hosts: Iterable[Host]) -> list[Host]:
    """Return those of some hosts for which the settings ask for rules, and the inventory has somebody to let in."""
    around = any(host.is_gateway or host.is_monitoring for host in inventory)
    return [host for host in hosts if host.is_serving and host.settings.firewall == "set" and (around or host.span)]


def apply(context: RunContext, earlier: HostsT) -> HostsT:
    """Bring the rules of hosts up to date. Nothing is done in a run over a part of the inventory: who connects has to be known."""
    if not context.options.limited:
        _Setup(context, earlier).run()
    return earlier


class _Setup:
    """The firewalls of all hosts in one run."""

    def __init__(self, context: RunContext, probed: ProbedHosts) -> None:
        self._context, self._probed = context, probed
        self._started = time.monotonic()
        hosts = context.inventory.hosts
        self._gateways = [host for host in hosts if host.is_gateway]
        self._monitors = [host for host in hosts if host.is_monitoring]
        self._viewers = [host for host in hosts if host.is_gateway or host.is_monitoring]
        self._known: dict[str, dict[str, tuple[str, ...]]] = {}
        """From which addresses gateways and monitoring hosts connect to hosts, by the names of both."""

    def run(self) -> None:
        hosts = [host for host in self._context.hosts() if host.name in self._probed.facts]
        serving = [host for host in hosts if host.is_serving]
        chosen = with_rules(self._context.inventory.hosts, hosts)
        advised = [host for host in serving if host.settings.firewall == "tell" and (self._gateways or host.span)]
        having = [host for host in hosts if (there := self._probed.facts[host.name].installed) and there.firewall]
        if gone := [host for host in having if host not in chosen]:
            locked = playbooks.acquire_locks(self._context, self._probed, "serve", gone)
            for result in self._play_removal(locked, rules.FIREWALL, rules.START).values():
                self._record(result, "the rules of its firewall were removed")
        if not chosen and not advised:
            return
        served = ask_served(self._context, self._probed)
        wanted = self._rules([host for host in (*chosen, *advised) if host.name in served], served)
        self._advise([one for one in wanted if one.host in advised])
        self._set([one for one in wanted if one.host in chosen])

    def _rules(self, hosts: Sequence[Host], served: Mapping[str, Served | None]) -> list[_Rules]:
        """Return what hosts are to accept; one that somebody reaches from an unknown address is left as it is."""
        found = []
        self._known = self._sources(hosts, served)
        neighbours = [ports(self._context, "serve", hosts) for ports in features.hooks("neighbours")]
        for host in hosts:
            if not self._is_well(host):
                continue
            one = served[host.name]
            needed = [viewer for viewer in self._viewers if self._reaches(viewer, host, one)]
            unknown = [viewer.name for viewer in needed if not self._known.get(viewer.name, {}).get(host.name)]
            unknown += [name for ports in neighbours for name in ports.silent(host) if name not in unknown]
            if unknown:
                if host.settings.firewall == "set":
                    why = f"from which address {', '.join(unknown)} reaches it is unknown"
                    warning = PhaseResult(host=host.name, phase="serve", status="warn")
                    self._record(warning, f"its firewall was left as it is: {why}")
                continue
            listening = self._probed.facts[host.name].ports
            gateways, monitors = (self._of(group, needed, host) for group in (self._gateways, self._monitors))
            try:
                openings = rules.openings_of(host, one.port if one else None, gateways, monitors, listening)
                openings += tuple(opening for ports in neighbours for opening in ports.openings(host, listening))
            except InventoryError as error:
                if host.settings.firewall == "set":
                    self._context.fail(host.name, "serve", error)
                continue
            if openings:
                found.append(_Rules(host, one, openings))
        return found

    def _sources(
        self, hosts: Sequence[Host], served: Mapping[str, Served | None]
    ) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return from which addresses gateways and monitoring hosts connect to hosts, by the names of both."""
        ready = {host.name for host in self._context.hosts()}

        def ask(viewer: Host) -> dict[str, tuple[str, ...]]:
            targets = [(host.name, at) for host in hosts for at in self._reaches(viewer, host, served[host.name])]
            said = self._context.session(viewer).run(rules.source_command(targets)).stdout if targets else ""
            return rules.sources_of(said)

        viewers = [viewer for viewer in self._viewers if viewer.name in ready]
        return self._context.run_on_hosts("serve", viewers, ask, deadline_s=rules.READ_DEADLINE_S)

    def _reaches(self, viewer: Host, host: Host, served: Served | None) -> list[str]:
        """Return the addresses by which another host reaches the server of one, and its exporter; none for the host itself."""
        binds = [served.bind] if served else []
        binds += [metrics_bind(host, self._monitors)] if viewer.is_monitoring else []
        found = (address_from(viewer, host, bind) for bind in binds if viewer.name != host.name)
        return [*dict.fromkeys(filter(None, found))]

    def _of(self, group: Sequence[Host], needed: Sequence[Host], host: Host) -> list[str] | None:
        """Return the addresses from which a group connects to a host; None where the inventory has none of the group."""
        viewers = [viewer for viewer in group if viewer in needed]
        return [source for viewer in viewers for source in self._known[viewer.name][host.name]] if group else None

    def _advise(self, wanted: Sequence[_Rules]) -> None:
        """Say how the rules are loaded by hand: at the gateway, where equal hosts are named together, and at each host of a span."""
        gateway = next((host.name for host in self._gateways if self._has_result(host.name)), None)
        # All services of a machine are in one file, as loading it replaces the rules of before.
        machines = gather((one.host.machine, one) for one in wanted).values()
        alike = gather((rules.joined(one.openings for one in each), each) for each in machines)
        for openings, equal in alike.items():
            hosts = [one.host for each in equal for one in each]
            at = hosts[0].name if hosts[0].span else gateway
            if at is None or not self._has_result(at):
                continue
            allowed = {"the gateway": self._gateways, "the hosts of its model": hosts[0].span}
            who = " and ".join(name for name, some in allowed.items() if some)
            path = self._context.run.path(f"firewall/{hosts[0].machine}.nft")
            write_atomically(path, rules.render(openings))
            setting = "" if any(host.service for host in hosts) else "firstlight_firewall: set, or "
            note = (
                f"no firewall was changed; so that only {who} can reach {fold_names([host.name for host in hosts])}: "
                f"{setting}as root there nft -f on a copy of {path}"
            )
            self._context.add_note(at, note)

    def _has_result(self, name: str) -> bool:
        return "serve" in self._context.outcomes.results.get(name, {})

    def _set(self, wanted: Sequence[_Rules]) -> None:
        """Load rules where others or none are loaded, and take them back where they lock a gateway out."""
        context = self._context
        for one in wanted:
            try:
                rules.require_root(one.host, root=self._probed.install_paths[one.host.name].root)
            except InventoryError as error:
                context.fail(one.host.name, "serve", error)
        playbooks.acquire_locks(context, self._probed, "serve", [one.host for one in wanted if self._is_well(one.host)])
        sets = {
            one.host.name: [rules.firewall_set(one.openings, self._probed.install_paths[one.host.name].prefix)]
            for one in wanted
            if self._is_well(one.host) and one.host.name in context.sessions.locks
        }
        differing = differing_sets(context, self._probed, sets)
        if new := [one for one in wanted if differing.get(one.host.name)]:
            self._load(new, sets)
        loaded = [one.host for one in wanted if one.host.name in differing and self._is_well(one.host)]
        self._play_removal(self._with_start_rules(loaded), rules.START)

    def _load(self, new: Sequence[_Rules], sets: Mapping[str, Sequence[UnitSet]]) -> None:
        """Load rules of hosts that have others or none, and say so."""
        context = self._context
        before = self._reached(new)
        results = play_differing(context, self._probed, "firewall", {one.host.name: sets[one.host.name] for one in new})
        lost = before - self._reached([one for one in new if one.host.name in results])
        self._take_back([one for one in new if one.host.name in {name for _, name, _ in lost}], lost)
        for one in [one for one in new if one.host.name in results and self._is_well(one.host)]:
            parts = {
                "only gateways and monitoring reach port": [one.ports() for one in one.openings if not one.for_span],
                "only the hosts of its model reach port": [one.ports() for one in one.openings if one.for_span],
            }
            text = "; ".join(f"{who} {', '.join(ports)}" for who, ports in parts.items() if ports)
            self._record(results[one.host.name], text)

    def _is_well(self, host: Host) -> bool:
        return not self._context.has_failed(host.name)

    def _reached(self, wanted: Sequence[_Rules]) -> set[tuple[str, str, int]]:
        """Return which gateways get connections to which hosts, and other hosts of a span to the first: who, to whom, and the port."""
        ready = {host.name for host in self._context.hosts()}

        def ask(viewer: Host) -> list[tuple[str, int]]:
            targets = [
                (one.host.name, address, one.served.port)
                for one in wanted
                if viewer in self._gateways and one.served
                for address in self._reaches(viewer, one.host, one.served)[:1]
            ]
            targets += [
                (one.host.name, one.host.address_in_span, one.host.settings.span_port)
                for one in wanted
                if one.host.name == viewer.head != viewer.name
            ]
            asked = {f"{name}:{port}": (address, port) for name, address, port in targets}
            said = self._context.session(viewer).run(rules.reach_command(asked)).stdout.split() if targets else []
            return [(name, int(port)) for name, _, port in (word.rpartition(":") for word in said)]

        asked = {host.name: host for host in (*self._gateways, *(one.host for one in wanted if one.host.span))}
        viewers = [viewer for viewer in asked.values() if viewer.name in ready]
        said = self._context.run_on_hosts("serve", viewers, ask, deadline_s=rules.READ_DEADLINE_S)
        return {(viewer, name, port) for viewer, found in said.items() for name, port in found}

    def _take_back(self, wanted: Sequence[_Rules], lost: Collection[tuple[str, str, int]]) -> None:
        self._play_removal([one.host for one in wanted], rules.FIREWALL, rules.START)
        for one in wanted:
            viewers = ", ".join(sorted(viewer for viewer, name, _ in lost if name == one.host.name))
            port = min(port for _, name, port in lost if name == one.host.name)
            error = ServeError(
                f"host `{one.host.name}`: with the rules of its firewall, {viewers} did not reach port {port} any more; they were removed",
                hint="name the address that it sees the gateway at: firstlight_firewall_accept: [ADDRESS]; that of a host of its model is "
                "firstlight_span_address",
            )
            self._context.fail(one.host.name, "serve", error)

    def _with_start_rules(self, hosts: Sequence[Host]) -> list[Host]:
        """Return the hosts of spans that have rules of a start."""
        command, spans = f"test -e /etc/systemd/system/{rules.START.unit}", [host for host in hosts if host.span]

        def ask(host: Host) -> bool:
            return self._context.session(host).run(command).rc == 0

        found = self._context.run_on_hosts("serve", spans, ask, deadline_s=rules.READ_DEADLINE_S)
        return [host for host in spans if found.get(host.name)]

    def _play_removal(self, hosts: Sequence[Host], *rule_sets: rules.RuleSet) -> dict[str, PhaseResult]:
        absent = [(one.name, (one.unit,)) for one in rule_sets]
        return play_removal(self._context, self._probed, "firewall", hosts, absent)

    def _record(self, played: PhaseResult, text: str) -> None:
        self._context.record(playbooks.added_to_earlier(self._context, played, text, time.monotonic() - self._started))


def _has_rules(context: RunContext) -> bool:
    """Return whether hosts may need rules, or have some of an earlier run."""
    found = [facts.installed for facts in context.result.facts.values()]
    return wants_rules(context) or any(installed and installed.firewall for installed in found)


# Last, when it is known who connects to which host.
STEP = Step("firewall", apply, "serve", "all", applies=_has_rules, after="serve", rank=3)
