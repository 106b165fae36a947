"""Monitoring of a run: what hosts serve is read, files and units are rendered and sent, and a playbook switches to them."""

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.records import MonitoringRecord, PhaseResult
from provision.core.redaction import register_secret
from provision.core.tables import own_table
from provision.core.unit_set import UnitSet
from provision.features.monitoring.targets import JOBS, Found, Target, find_targets, parse_targets
from provision.features.monitoring.unit_sets import KEY, SERVER, exporter_set, server_set
from provision.fleet.inventory.addresses import own_address, with_port
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.results import HostsT, ProbedHosts
from provision.run.served import ask_served
from provision.run.step import Step
from provision.run.unit_sets import play_differing

READ_DEADLINE_S = 60.0
SUPPORTED = "monitoring takes Prometheus and its exporters from the packages of Debian and Ubuntu"


def apply(context: RunContext, earlier: HostsT) -> HostsT:
    """Set monitoring up. Nothing is done without a host of its group, or in a run over a part of the inventory."""
    monitors = [host for host in context.hosts() if host.is_monitoring]
    if context.options.limited:
        for host in monitors:
            if not host.is_provisioned and not host.is_gateway:
                text = "left as it is: --limit names a part of the inventory, and monitoring has to know all of it"
                context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text))
        return earlier
    if monitors:
        _set_up(context, earlier, monitors)
    return earlier


def why_not(facts: HostFacts, *, root: bool) -> str | None:
    """Return why nothing of monitoring can run on a host; None where it can."""
    if facts.os.package_manager != "apt":
        return f"it runs {facts.os.pretty_name or facts.os.id or 'an unknown system'}"
    if facts.os.init != "systemd":
        return "it has no systemd"
    return None if root else "the run has no root there"


def without_exporter(probed: ProbedHosts) -> dict[str, str]:
    """Return why hosts have no node exporter, also those that a run leaves out: they would count as lost."""
    found = {name: why_not(facts, root=probed.install_paths[name].root) for name, facts in probed.facts.items()}
    return {name: f"no node exporter: {why}" for name, why in found.items() if why}


def read_alertmanager(path: str | None, host: str) -> str | None:
    """Return the user's configuration of Alertmanager; None where no file was given. Raises InventoryError where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8") if path is not None else None
    except (OSError, UnicodeDecodeError) as error:
        raise InventoryError(
            f"host `{host}`: `{path}` cannot be read: {error}",
            hint="firstlight_alertmanager_config names one file of Alertmanager: amtool check-config FILE",
        ) from None


def _set_up(context: RunContext, probed: ProbedHosts, monitors: Sequence[Host]) -> None:
    started = time.monotonic()
    paths = probed.install_paths
    without = without_exporter(probed)
    for host in monitors:
        if why := why_not(probed.facts[host.name], root=paths[host.name].root):
            hint = "put a host with Debian or Ubuntu, systemd and root into group `monitoring`"
            error = InventoryError(f"host `{host.name}`: {SUPPORTED}, and {why}", hint=hint)
            context.fail(host.name, "serve", error)
    if not (monitors := [host for host in monitors if not context.has_failed(host.name)]):
        return
    able = [host for host in context.hosts() if host.name not in without]
    hosts = playbooks.acquire_locks(context, probed, "serve", able)
    readers = [host for host in hosts if host in monitors]
    known = context.run_on_hosts("serve", readers, partial(_known_targets, context, probed), deadline_s=READ_DEADLINE_S)
    served, cards = ask_served(context, probed), ask_card_ports(context, probed)
    found: dict[str, Found] = {}
    sets: dict[str, list[UnitSet]] = {}
    inventory = Path(context.inventory.source).resolve()
    for host in [host for host in hosts if not context.has_failed(host.name)]:
        prefix = paths[host.name].prefix
        # Of services the first one has the exporters of their machine.
        units = [exporter_set(host, monitors, prefix)] if host.is_first else []
        if host.name in known:
            try:
                alertmanager = read_alertmanager(host.settings.alertmanager_config, host.name)
            except InventoryError as error:
                context.fail(host.name, "serve", error)
                continue
            found[host.name] = find_targets(
                host, context.inventory.hosts, served, without, known=known[host.name], card_ports=cards
            )
            units.append(server_set(host, found[host.name].targets, prefix, inventory, alertmanager))
        sets[host.name] = units
    for name, played in play_differing(context, probed, "monitoring", sets).items():
        _record(context, context.host(name), played, found.get(name), time.monotonic() - started)


def _known_targets(context: RunContext, probed: ProbedHosts, host: Host) -> tuple[Target, ...]:
    """Return what a monitoring host reads now."""
    folder = shlex.quote(f"{probed.install_paths[host.name].prefix}/{SERVER}/current")
    command = f"cd {folder} 2>/dev/null || exit 0; grep -sH '' {KEY}*; cat *.json 2>/dev/null"
    said = context.session(host).run(command, root=True).stdout
    lines = said.splitlines()
    keys = dict(line.removeprefix(KEY).split(":", 1) for line in lines if line.startswith(KEY))
    for key in keys.values():
        register_secret(key)
    return parse_targets(said, keys)


def _record(context: RunContext, host: Host, played: PhaseResult, found: Found | None, seconds: float) -> None:
    """Record how it ended; a monitoring host with what it reads."""
    settings = host.settings
    text = f"metrics at port {settings.metrics_port}"
    if found is not None:
        bind = own_address(settings.monitoring_bind)
        record = MonitoringRecord(
            prometheus=f"http://{with_port(bind, settings.monitoring_port)}",
            alertmanager=f"http://{with_port(bind, settings.alertmanager_port)}",
            targets={job: tuple(one.host for one in found.targets if one.job == job) for job in JOBS},
            missing=dict(found.missing),
        )
        context.run.write(f"monitoring/{host.name}.json", record)
        text = f"monitoring of {len({one.host for one in found.targets})} hosts"
        if found.missing:
            text += f"; metrics are missing: {'; '.join(f'{name}: {why}' for name, why in found.missing.items())}"
            hint = "docs/guides/monitoring.md says what each reason needs"
            played = played.model_copy(update={"status": "warn", "hint": hint})
    context.record(playbooks.added_to_earlier(context, played, text, seconds))


_SCRIPT = """
import sys, urllib.request
ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
for place in sys.argv[1:]:
    address, sign = place.rsplit("=", 1)
    try:
        lines = ask(f"http://{address}/metrics", timeout=5).read().decode(errors="replace").splitlines()
    except OSError:
        continue
    if any(line.startswith(sign) for line in lines):
        print(address.rpartition(":")[2])
"""


def ask_card_ports(context: RunContext, probed: ProbedHosts) -> dict[str, tuple[int, ...]]:
    """Return the ports at which exporters of card vendors listen, by host."""
    exporters = known_exporters()

    def ask(host: Host) -> tuple[int, ...]:
        command = find_command(f"{probed.install_paths[host.name].prefix}/current/bin/python", exporters)
        return tuple(int(line) for line in context.session(host).run(command).stdout.split() if line.isdigit())

    provisioned = [host for host in context.hosts() if host.is_provisioned]
    return context.run_on_hosts("serve", provisioned, ask, deadline_s=READ_DEADLINE_S)


def known_exporters() -> dict[str, str]:
    """Return by address and port how a line of an exporter's metrics begins."""
    rows = own_table(Path(__file__).with_name("card_exporters.toml"))["exporter"]
    return {f"127.0.0.1:{row['port']}": row["sign"] for row in rows}


def find_command(python: str, exporters: Mapping[str, str]) -> str:
    """Return a command that prints the ports at which exporters listen; nothing without the interpreter."""
    words = shlex.join([python, "-I", "-S", "-c", _SCRIPT, *(f"{at}={sign}" for at, sign in exporters.items())])
    return f"test ! -x {shlex.quote(python)} || {words}"


# After the gateways, whose figures it reads.
STEP = Step(
    "monitoring",
    apply,
    "serve",
    "all",
    applies=lambda run: any(host.is_monitoring for host in run.inventory.hosts),
    after="serve",
    rank=2,
)
