"""The gateway of a run: what its hosts serve is read, its files are rendered and sent, and a playbook switches to them.

Keys of hosts and clients pass through this process's memory only; no record of the run has one.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from provision.core.errors import FirstlightError, InventoryError
from provision.core.models.inventory import Host
from provision.core.models.records import GatewayRecord, PhaseResult
from provision.core.redaction import register_secret
from provision.features.gateway import router, routers, shared_address
from provision.features.gateway.backends import (
    PACKAGES,
    backends_of,
    certificate_names,
    gateway_of,
    known_clients,
    reached_at,
    read_certificate,
    remembered,
    to_remember,
    variables,
)
from provision.features.gateway.haproxy import (
    CERTIFICATE,
    CERTIFICATE_NAMES,
    CLIENTS,
    SECRET,
    SERVED,
    UNIT,
    Files,
    render,
    unit_text,
)
from provision.features.gateway.reconciliation import kept_out, reconcile
from provision.features.gateway.records import Gateway
from provision.features.watchdog import health_agent
from provision.fleet.inventory.addresses import gateway_endpoint
from provision.fleet.ssh import Session
from provision.run import playbooks
from provision.run.context import RunContext
from provision.run.deb_packages import send_missing
from provision.run.results import ProbedHosts
from provision.run.served import Served, ask_served
from provision.run.unit_sets import has, sums_command

ResultT = TypeVar("ResultT", bound=ProbedHosts)
READ_DEADLINE_S = 60.0
SEND_DEADLINE_S = 120.0
INCOMING = "/run/firstlight-gateway.incoming"
"""Of root, and in memory: the files hold keys."""


@dataclass(frozen=True)
class Before:
    """What a gateway has already."""

    clients: Mapping[str, str] = field(default_factory=dict, repr=False)
    served: Mapping[str, Served] = field(default_factory=dict, repr=False)
    sums: str = ""
    """What `sums_command` printed."""
    shares: bool = False
    """Whether it shares an address with other gateways."""
    router_key: str = field(default="", repr=False)
    routes: bool = False
    """Whether it runs vllm-router."""

    def has(self, files: Files, unit: str, *, shares: bool) -> bool:
        """Return whether it runs with these files already, and shares no address that it is not to share."""
        return has(self.sums, files.texts, {UNIT: unit}, {UNIT}) and (shares or not self.shares)


def apply(context: RunContext, earlier: ResultT) -> ResultT:
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
        started = time.monotonic()
        _set_up(context, earlier, gateways, started)
    return earlier


def _set_up(context: RunContext, probed: ProbedHosts, gateways: Sequence[Host], started: float) -> None:
    for host in gateways:
        if not probed.install_paths[host.name].root:
            error = InventoryError(
                f"host `{host.name}`: a gateway needs root",
                hint="log in as root, or set ansible_become: true",
            )
            context.fail(host.name, "serve", error)
    sound = [host for host in gateways if not context.has_failed(host.name)]
    gateways = playbooks.acquire_locks(context, probed, "serve", sound)
    interfaces = shared_address.require_possible(context, gateways)
    gateways = [host for host in gateways if not context.has_failed(host.name)]
    before = context.run_on_hosts(
        "serve",
        gateways,
        lambda host: _read_before(context.session(host), probed.install_paths[host.name].prefix),
        deadline_s=READ_DEADLINE_S,
    )
    served = health_agent.set_up(context, probed, _served(context, probed, before.values()))
    clients: dict[str, str] = {}
    for found in before.values():
        clients = {**found.clients, **clients}
    made: dict[str, tuple[Gateway, Files]] = {}
    for host in [host for host in gateways if host.name in before]:
        for name in host.settings.gateway_clients:
            clients.setdefault(name, register_secret(f"sk-{secrets.token_urlsafe(32)}"))
        try:
            router_key = before[host.name].router_key or register_secret(f"router-{secrets.token_urlsafe(32)}")
            made[host.name] = _files(
                context,
                host,
                served,
                clients,
                folder=f"{probed.install_paths[host.name].prefix}/gateway",
                router_key=router_key,
            )
        except FirstlightError as error:
            context.fail(host.name, "serve", error)
    units = {name: unit_text(probed.install_paths[name].prefix) for name in made}
    new = [
        host
        for host in gateways
        if host.name in made
        and not before[host.name].has(
            made[host.name][1], units[host.name], shares=host.settings.gateway_address is not None
        )
    ]
    changing = {host.name for host in new}
    debs = send_missing(context, probed, {host.name: PACKAGES for host in new})
    new = [host for host in new if host.name in debs]
    sent = context.run_on_hosts(
        "serve", new, lambda host: _send(context.session(host), made[host.name][1]), deadline_s=SEND_DEADLINE_S
    )
    results = {name: PhaseResult(host=name, phase="serve", status="ok") for name in made if name not in changing}
    results |= playbooks.run_playbook(
        context,
        "gateway",
        "serve",
        [host for host in new if host.name in sent],
        lambda host: {
            **probed.install_paths[host.name].ansible_vars(),
            **variables(host, made[host.name][1].digest, SECRET, units[host.name], INCOMING),
            "firstlight_debs": debs[host.name],
        },
    )
    ready = [host for host in gateways if host.name in results and not context.has_failed(host.name)]
    gateway_records = {name: gateway for name, (gateway, _) in made.items()}
    has_router = {name: one.routes for name, one in before.items()}
    routed = routers.set_up(context, probed, ready, gateway_records, has_router)
    ready = [host for host in ready if not context.has_failed(host.name)]
    shared = shared_address.set_up(context, probed, ready, interfaces)
    ready = [host for host in ready if not context.has_failed(host.name)]
    traffics, ended = reconcile(context, ready)
    for host in ready:
        beside = [each[host.name] for each in (routed, shared) if host.name in each]
        corrected = [ended[host.name]] if host.name in ended else []
        traffic = traffics.get(host.name)
        if traffic is not None:
            corrected += kept_out(context, host, traffic)
        prefix = probed.install_paths[host.name].prefix
        record = _record(context.session(host), host, made[host.name][0], prefix)
        record = record.model_copy(update={"out": traffic.out() if traffic else {}})
        context.run.write(f"gateway/{host.name}.json", record)
        played, text = _together(host, record, results[host.name], beside, corrected)
        context.record(playbooks.added_to_earlier(context, played, text, time.monotonic() - started))


def _together(
    host: Host,
    record: GatewayRecord,
    played: PhaseResult,
    beside: Sequence[PhaseResult],
    corrected: Sequence[PhaseResult],
) -> tuple[PhaseResult, str]:
    """Return the result of a gateway together, and one sentence on what was set up.

    Args:
        host: The gateway.
        record: What clients have to know of it.
        played: What its playbook did.
        beside: The same of what it runs besides HAProxy.
        corrected: What it remembered of hosts and was corrected, and what is left of that.
    """
    count = len({name for names in record.models.values() for name in names})
    parts = [f"gateway to {count} host{'s' if count != 1 else ''}"]
    parts += [f"{count - len(record.out)} of them in traffic"] if record.out else []
    if host.settings.gateway_balance == "router":
        parts.append("chosen by vllm-router")
    if host.settings.gateway_address is not None:
        parts.append(f"shares {host.settings.gateway_address}")
    changes: dict[str, Any] = {"changed": any(one.changed for one in (played, *beside, *corrected))}
    warnings = [one for one in (*beside, *corrected) if one.status == "warn"]
    if warnings:
        changes |= {"status": "warn", "hint": warnings[0].hint}
    said = [one.text for one in (*beside, *corrected) if one.text and (one.status == "warn" or one in corrected)]
    text = "; ".join((", ".join(parts), *said))
    return played.model_copy(update=changes), text


def _read_before(session: Session, prefix: str) -> Before:
    """Read what a gateway has; its keys must appear in no record."""
    texts = {}
    units = (shared_address.UNIT_PATH, router.UNIT_PATH)
    command = "".join(f"test -e {path} && echo {path}; " for path in units)
    sums = session.run(command + sums_command(f"{prefix}/gateway/current", (UNIT,)), root=True).stdout
    shares, routes = (path in sums.splitlines() for path in units)
    for name in (CLIENTS, SERVED, *((router.KEY,) if routes else ())):
        with contextlib.suppress(FileNotFoundError):
            texts[name] = session.read(f"{prefix}/gateway/current/{name}", root=True).decode()
    found = Before(
        known_clients(texts.get(CLIENTS, "")),
        remembered(texts.get(SERVED, "")),
        sums,
        shares,
        router.known_key(texts.get(router.KEY, "")),
        routes,
    )
    for key in (*found.clients.values(), *(one.key for one in found.served.values()), found.router_key):
        if key:
            register_secret(key)
    return found


def _served(context: RunContext, probed: ProbedHosts, before: Collection[Before]) -> dict[str, Served]:
    """Return what each host serves: as it says now, or as a gateway knows it from before where it does not answer; none of a host that is left out."""
    answers = ask_served(context, probed)
    found: dict[str, Served] = {}
    for host in [host for host in context.inventory.hosts if host.is_serving and host.name not in context.left_out]:
        known = [one.served[host.name] for one in before if host.name in one.served]
        now = answers[host.name] if host.name in answers else next(iter(known), None)
        if now is not None:
            found[host.name] = now
    return found


def _files(
    context: RunContext,
    host: Host,
    served: Mapping[str, Served],
    clients: Mapping[str, str],
    *,
    folder: str,
    router_key: str,
) -> tuple[Gateway, Files]:
    """Render the files of one gateway. Raises InventoryError."""
    backends = backends_of(host, context.inventory.hosts, served)
    keys = {name: clients[name] for name in host.settings.gateway_clients}
    monitors = [one for one in context.inventory.hosts if one.is_monitoring]
    gateway = gateway_of(host, backends, keys, folder, monitors, router_key=router_key)
    more = {SERVED: to_remember(served)}
    certificate = read_certificate(host.settings.gateway_certificate, host.name)
    if certificate is not None:
        more[CERTIFICATE] = certificate
    elif gateway.tls:
        more[CERTIFICATE_NAMES] = "".join(f"{name}\n" for name in certificate_names(host))
    return gateway, render(gateway, more)


def _send(session: Session, files: Files) -> None:
    folder = shlex.quote(INCOMING)
    session.run(f"rm -rf {folder} && mkdir -m 700 {folder}", root=True)
    for name, text in files.texts.items():
        session.write(f"{INCOMING}/{name}", text.encode(), mode=0o600, root=True)


def _record(session: Session, host: Host, gateway: Gateway, prefix: str) -> GatewayRecord:
    """Return what clients have to know."""
    current = f"{prefix}/gateway/current"
    fingerprint = None
    if gateway.tls:
        path = shlex.quote(f"{current}/{CERTIFICATE}")
        said = session.run(f"openssl x509 -noout -fingerprint -sha256 -in {path}", root=True).stdout
        fingerprint = said.strip().partition("=")[2] or None
    return GatewayRecord(
        endpoint=gateway_endpoint(host, reached_at(host)),
        models={model: tuple(one.name for one in backends) for model, backends in gateway.models().items()},
        clients=tuple(sorted(gateway.clients)),
        key_file=f"{current}/{CLIENTS}",
        fingerprint=fingerprint,
        self_signed=gateway.tls and host.settings.gateway_certificate is None,
    )
