"""The gateway of a run: what its hosts serve is read, its files are rendered and sent, and a playbook switches to them.

Keys of hosts and clients pass through this process's memory only; no record of the run has one.
"""

import contextlib
import secrets
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from provision.core.errors import FirstlightError, InventoryError, ServeError
from provision.core.models.inventory import Host
from provision.core.models.records import CheckRecord, GatewayRecord, PhaseResult
from provision.core.redaction import register_secret
from provision.features.gateway import backends, contract, haproxy, shared_address
from provision.features.gateway.backends import PACKAGES, Backend, Gateway, certificate_names
from provision.features.gateway.draining import kept_out, reconcile
from provision.features.gateway.haproxy import Files
from provision.features.watchdog import health_agent
from provision.fleet.inventory.addresses import gateway_endpoint, is_ip, metrics_bind, own_address
from provision.fleet.ssh import Session
from provision.report.history.runs import green_hosts, newest_with
from provision.report.layout import count
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.deb_packages import send_missing
from provision.run.results import HostsT, ProbedHosts
from provision.run.served import Served, ask_served
from provision.run.step import Step
from provision.run.unit_sets import has, send_files, sums_command

READ_DEADLINE_S = 60.0
SEND_DEADLINE_S = 120.0
INCOMING = "/run/firstlight-gateway.incoming"
"""Of root, and in memory: the files hold keys."""


@dataclass(frozen=True)
class Before:
    """What a gateway has already."""

    clients: Mapping[str, str] = field(default_factory=dict, repr=False)
    served: Mapping[str, Served] = field(default_factory=dict, repr=False)
    addresses: Mapping[str, str] = field(default_factory=dict)
    sums: str = ""
    """What `sums_command` printed."""
    shares: bool = False
    """Whether it shares an address with other gateways."""

    def has(self, files: Files, unit: str, *, shares: bool) -> bool:
        """Return whether it runs with these files already, and shares no address that it is not to share."""
        return has(self.sums, files.texts, {haproxy.UNIT: unit}, {haproxy.UNIT}) and (shares or not self.shares)


def apply(context: RunContext, earlier: HostsT) -> HostsT:
    """Set the gateways of the inventory up. Nothing is done without one, or in a run over a part of the inventory."""
    gateways = [host for host in context.hosts() if host.is_gateway]
    if context.options.limited:
        for host in gateways:
            if not host.is_provisioned:
                text = "left as it is: --limit names a part of the inventory, and a gateway has to know all of it"
                hint = "set it up: ./firstlight gateway"
                context.record(PhaseResult(host=host.name, phase="serve", status="skipped", text=text, hint=hint))
        return earlier
    if gateways:
        _set_up(context, earlier)
    return earlier


def _gateways(context: RunContext, among: Collection[str] | None = None) -> list[Host]:
    """Return the gateways that have not failed, all or those with some names."""
    return [host for host in context.hosts() if host.is_gateway and (among is None or host.name in among)]


def _set_up(context: RunContext, probed: ProbedHosts) -> None:
    started = time.monotonic()
    prefixes = {host.name: probed.install_paths[host.name].prefix for host in _gateways(context)}
    for host in _gateways(context):
        if not probed.install_paths[host.name].root:
            hint = "log in as root, or set ansible_become: true"
            context.fail(host.name, "serve", InventoryError(f"host `{host.name}`: a gateway needs root", hint=hint))
    locked = playbooks.acquire_locks(context, probed, "serve", _gateways(context))
    interfaces = shared_address.require_possible(context, probed, locked)
    before = context.run_on_hosts(
        "serve",
        _gateways(context),
        lambda host: _read_before(context.session(host), prefixes[host.name]),
        deadline_s=READ_DEADLINE_S,
    )
    served = health_agent.set_up(context, probed, _served(context, probed, before.values()))
    clients = {name: key for found in reversed(before.values()) for name, key in found.clients.items()}
    made: dict[str, Gateway] = {}
    files: dict[str, Files] = {}
    for host in _gateways(context, before):
        for name in host.settings.gateway_clients:
            clients.setdefault(name, register_secret(f"sk-{secrets.token_urlsafe(32)}"))
        folder = f"{prefixes[host.name]}/gateway"
        try:
            made[host.name], files[host.name] = _files(context, host, served, clients, before[host.name], folder=folder)
        except FirstlightError as error:
            context.fail(host.name, "serve", error)
    units = {name: haproxy.unit_text(prefixes[name]) for name in made}
    results, new = {}, []
    for host in _gateways(context, made):
        shares = host.settings.gateway_address is not None
        if before[host.name].has(files[host.name], units[host.name], shares=shares):
            results[host.name] = PhaseResult(host=host.name, phase="serve", status="ok")
        else:
            new.append(host)
    debs = send_missing(context, probed, {host.name: PACKAGES for host in new})
    sent = context.run_on_hosts(
        "serve",
        [host for host in new if host.name in debs],
        lambda host: send_files(context.session(host), INCOMING, files[host.name].texts),
        deadline_s=SEND_DEADLINE_S,
    )
    results |= playbooks.run_playbook(
        context,
        probed,
        "gateway",
        [host for host in new if host.name in sent],
        lambda host: _variables(host, files[host.name], units[host.name]) | {"firstlight_debs": debs[host.name]},
    )
    shared = shared_address.set_up(context, probed, _gateways(context, results), interfaces)
    traffics, ended = reconcile(context, _gateways(context, results))
    asked = context.run_on_hosts(
        "serve",
        [host for host in _gateways(context, results) if _is_to_be_asked(context, host, results[host.name])],
        lambda host: _require_contract(context.session(host), host, made[host.name]),
        deadline_s=max(map(contract.deadline_s, made.values()), default=0.0),
    )
    for host in _gateways(context, results):
        beside = [shared[host.name]] if host.name in shared else []
        corrected = [ended[host.name]] if host.name in ended else []
        out = {}
        if (traffic := traffics.get(host.name)) is not None:
            corrected += kept_out(context, host, traffic)
            out = traffic.out()
        record = _record(context.session(host), host, made[host.name], out)
        context.run.write(f"gateway/{host.name}.json", record)
        played, text = _together(host, record, results[host.name], beside, corrected, asked=asked.get(host.name))
        context.record(playbooks.added_to_earlier(context, played, text, time.monotonic() - started))


def _is_to_be_asked(context: RunContext, host: Host, played: PhaseResult) -> bool:
    """Return whether this run changed a gateway or a host, or the last run with the gateway was not green."""
    results = [result for phases in context.outcomes.results.values() for result in phases.values()]
    if any(result.changed for result in (played, *results)):
        return True
    last = newest_with(context.run.logs, host.name, besides=context.run.name)
    return last is None or host.name not in green_hosts(last)


def _require_contract(session: Session, host: Host, gateway: Gateway) -> CheckRecord:
    """Ask a gateway as clients do. Raises ServeError where it changes what its hosts answer."""
    check = contract.ask(session, host, gateway)
    if check.status == "fail":
        raise ServeError(check.reason, hint=check.remedy)
    return check


def check(context: RunContext, probed: ProbedHosts) -> list[CheckRecord]:
    """Ask each gateway as clients do, and return the records; nothing is changed. A run over a part of the inventory asks none."""

    def ask(host: Host) -> CheckRecord:
        session, prefix = context.session(host), probed.install_paths[host.name].prefix
        before = _read_before(session, prefix)
        if not before.clients:
            return contract.record(host, "skip", "the gateway is not set up yet: ./firstlight gateway")
        behind = backends.backends_of(host, context.inventory.hosts, before.served)
        behind = _at(before.addresses, behind)
        return contract.ask(session, host, Gateway(host.settings, behind, dict(before.clients), f"{prefix}/gateway"))

    hosts = [host for host in context.inventory.hosts if host.is_gateway and host.name in probed.install_paths]
    if context.options.limited:
        return []
    models = len(context.inventory.hosts)
    answers = context.ask_hosts(hosts, ask, deadline_s=READ_DEADLINE_S + contract.MODEL_S * models)
    errors = {name: f"the gateway could not be queried: {error}" for name, error in answers.errors.items()}
    return [answers.values.get(host.name) or contract.record(host, "error", errors[host.name]) for host in hosts]


def _variables(host: Host, files: Files, unit: str) -> dict[str, Any]:
    """Return the variables of the playbook, beside those of the host's paths."""
    settings = host.settings
    signs_itself = settings.gateway_tls and settings.gateway_certificate is None
    return {
        "firstlight_system_packages": [*PACKAGES],
        "firstlight_gateway": {
            "incoming": INCOMING,
            "digest": files.digest,
            "secret": sorted(haproxy.SECRET),
            "unit": unit,
            "unit_path": "/etc/systemd/system/firstlight-gateway.service",
            "shares_address": settings.gateway_address is not None,
            "self_signed": certificate_names(host) if signs_itself else [],
            "probe": gateway_endpoint(host, own_address(settings.gateway_bind)).removesuffix("/v1"),
        },
    }


def _together(
    host: Host,
    record: GatewayRecord,
    played: PhaseResult,
    beside: Sequence[PhaseResult],
    corrected: Sequence[PhaseResult],
    *,
    asked: CheckRecord | None,
) -> tuple[PhaseResult, str]:
    """Return the result of a gateway together, and one sentence on what was set up."""
    hosts = len({name for names in record.models.values() for name in names})
    parts = [f"gateway to {count(hosts, 'host')}"]
    parts += [f"{hosts - len(record.out)} of them in traffic"] if record.out else []
    if host.settings.gateway_address is not None:
        parts.append(f"shares {host.settings.gateway_address}")
    others = (*beside, *corrected)
    changes: dict[str, Any] = {"changed": any(one.changed for one in (played, *others))}
    hints = [one.hint for one in others if one.status == "warn"]
    hints += [asked.remedy] if asked and asked.status in ("warn", "error") else []
    if hints:
        changes |= {"status": "warn", "hint": hints[0]}
    said = [one.text for one in others if one.text and (one.status == "warn" or one in corrected)]
    said += [asked.reason] if asked else []
    return played.model_copy(update=changes), "; ".join((", ".join(parts), *said))


def _read_before(session: Session, prefix: str) -> Before:
    """Read what a gateway has; its keys must appear in no record."""
    texts = {}
    address = shared_address.UNIT_PATH
    command = f"test -e {address} && echo {address}; "
    sums = session.run(command + sums_command(f"{prefix}/gateway/current", (haproxy.UNIT,)), root=True).stdout
    for name in (haproxy.CLIENTS, haproxy.SERVED, haproxy.ADDRESSES):
        with contextlib.suppress(FileNotFoundError):
            texts[name] = session.read(f"{prefix}/gateway/current/{name}", root=True).decode()
    found = Before(
        {name: key for key, _, name in (line.partition(" ") for line in texts.get(haproxy.CLIENTS, "").splitlines())},
        backends.remembered(texts.get(haproxy.SERVED, "")),
        dict(line.partition(" ")[::2] for line in texts.get(haproxy.ADDRESSES, "").splitlines()),
        sums,
        address in sums.splitlines(),
    )
    for key in (*found.clients.values(), *(one.key for one in found.served.values())):
        if key:
            register_secret(key)
    return found


def _served(context: RunContext, probed: ProbedHosts, before: Collection[Before]) -> dict[str, Served]:
    """Return what each host serves: as it says now, or as a gateway knows it from before where it does not answer; none of a host that is left out."""
    known = {name: one for found in reversed([*before]) for name, one in found.served.items()}
    now: dict[str, Served | None] = {**known, **ask_served(context, probed)}
    names = [host.name for host in context.inventory.hosts if host.is_serving]
    return {name: one for name in names if (one := now.get(name)) is not None and name not in context.outcomes.left_out}


def looked_up(session: Session, behind: Sequence[Backend], known: Mapping[str, str]) -> dict[str, str]:
    """Return the addresses of back ends' names on the gateway: HAProxy does not start while one of them is unknown.

    One that it uses already (`known`) stays while the name has it, or has none just now. A name that was never known is its own.
    """
    names = sorted({shlex.quote(one.address) for one in behind if not is_ip(one.address)})
    if not names:
        return {}
    said = session.run("".join(f"echo {name} $(timeout 30 getent ahosts {name}) & " for name in names) + "wait").stdout
    found = {name: [*filter(is_ip, at)] or [known.get(name, name)] for name, *at in map(str.split, said.splitlines())}
    # The resolver has sorted them: those without a route are last.
    return {name: known[name] if known.get(name) in at else at[0] for name, at in found.items()}


def _at(addresses: Mapping[str, str], behind: Sequence[Backend]) -> tuple[Backend, ...]:
    """Return hosts with the addresses that a gateway uses for their names."""
    return tuple(replace(one, address=addresses.get(one.address, one.address)) for one in behind)


def _files(
    context: RunContext,
    host: Host,
    served: Mapping[str, Served],
    clients: Mapping[str, str],
    before: Before,
    *,
    folder: str,
) -> tuple[Gateway, Files]:
    """Render the files of one gateway. Raises InventoryError."""
    behind = backends.backends_of(host, context.inventory.hosts, served)
    addresses = looked_up(context.session(host), behind, before.addresses)
    behind = _at(addresses, behind)
    keys = {name: clients[name] for name in host.settings.gateway_clients}
    monitors = [one for one in context.inventory.hosts if one.is_monitoring]
    metrics = (metrics_bind(host, monitors), host.settings.gateway_metrics_port) if monitors else None
    gateway = Gateway(host.settings, behind, keys, folder, metrics=metrics)
    used = "".join(f"{name} {address}\n" for name, address in sorted(addresses.items()))
    more = {haproxy.SERVED: backends.to_remember(served), haproxy.ADDRESSES: used}
    if (certificate := backends.read_certificate(host.settings.gateway_certificate, host.name)) is not None:
        more[haproxy.CERTIFICATE] = certificate
    elif host.settings.gateway_tls:
        more[haproxy.CERTIFICATE_NAMES] = "".join(f"{name}\n" for name in certificate_names(host))
    return gateway, haproxy.render(gateway, more)


def _record(session: Session, host: Host, gateway: Gateway, out: dict[str, str]) -> GatewayRecord:
    """Return what clients have to know; `out` is why hosts get no requests."""
    current = f"{gateway.folder}/current"
    fingerprint = None
    if host.settings.gateway_tls:
        path = shlex.quote(f"{current}/{haproxy.CERTIFICATE}")
        said = session.run(f"openssl x509 -noout -fingerprint -sha256 -in {path}", root=True).stdout
        fingerprint = said.strip().partition("=")[2] or None
    return GatewayRecord(
        endpoint=gateway_endpoint(host, backends.reached_at(host)),
        models={model: tuple(one.name for one in hosts) for model, hosts in gateway.models().items()},
        clients=tuple(sorted(gateway.clients)),
        key_file=f"{current}/{haproxy.CLIENTS}",
        fingerprint=fingerprint,
        out=out,
        self_signed=host.settings.gateway_tls and host.settings.gateway_certificate is None,
    )


# Before what watches and protects hosts and gateways.
STEP = Step(
    "gateway",
    apply,
    "serve",
    "all",
    applies=lambda run: any(host.is_gateway for host in run.inventory.hosts),
    after="serve",
    rank=1,
)
