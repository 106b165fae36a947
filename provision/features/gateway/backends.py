"""The hosts behind a gateway, and the gateway itself, from the inventory and from what hosts said. Pure."""

import json
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from provision.core.errors import InventoryError
from provision.core.models.inventory import Host
from provision.features.gateway.records import Backend, Gateway, Limits
from provision.fleet.inventory.addresses import EVERYWHERE, address_from, is_ip, listened_on, metrics_bind
from provision.run.served import Served

PACKAGES = ("haproxy", "openssl")
"""OS packages of a gateway, by the names of every distribution."""
RUN_FOLDER = "/run/firstlight-gateway"


def backends_of(gateway: Host, hosts: Iterable[Host], served: Mapping[str, Served]) -> tuple[Backend, ...]:
    """Return the back ends of a gateway, from what hosts said; those that serve nothing are missing.

    Raises InventoryError where a host listens where the gateway cannot reach it, there is none at all, or a name is that of two models or adapters.
    """
    found, unreachable = [], []
    for host in hosts:
        said = served.get(host.name)
        if said is None:
            continue
        address = address_from(gateway, host, said.bind)
        if address is None:
            unreachable.append(f"host `{host.name}` listens on {said.bind}")
        else:
            adapters = tuple(said.adapters)
            found.append(
                Backend(host.name, said.model, address, said.port, said.key, said.health_port, adapters, said.task)
            )
    if unreachable:
        raise InventoryError(
            f"gateway `{gateway.name}` cannot reach every host: {', '.join(unreachable)}",
            hint="set firstlight_bind of these hosts to an address of their private network and firstlight_expose: true; "
            "then ./firstlight serve",
        )
    if not found:
        raise InventoryError(
            f"gateway `{gateway.name}` has nothing to pass requests to: no host of the inventory serves",
            hint="start the hosts first: ./firstlight provision",
        )
    _require_own_names(gateway, found)
    return tuple(found)


def _require_own_names(gateway: Host, backends: Iterable[Backend]) -> None:
    """Raise InventoryError where an adapter has the name of a model, or adapters of two models have the same."""
    owners: dict[str, set[str]] = {}
    for one in backends:
        for name in (one.model, *one.adapters):
            owners.setdefault(name, set()).add(one.model)
    for name, models in sorted(owners.items()):
        if len(models) > 1:
            raise InventoryError(
                f"gateway `{gateway.name}`: the name `{name}` stands for several: of the models {', '.join(sorted(models))}",
                hint="give each adapter in firstlight_lora a name of its own; then ./firstlight serve",
            )


def gateway_of(
    host: Host,
    backends: tuple[Backend, ...],
    clients: Mapping[str, str],
    folder: str,
    monitors: Collection[Host] = (),
    *,
    router_key: str = "",
) -> Gateway:
    """Return a gateway from the settings of its host, with the key of each client by its name, and that of vllm-router."""
    settings = host.settings
    limits = Limits(settings.gateway_body_mib, settings.gateway_host_requests, settings.gateway_requests_per_minute)
    bind = listened_on(settings.gateway_bind)
    return Gateway(
        bind,
        settings.gateway_port,
        settings.gateway_tls,
        backends,
        dict(clients),
        limits,
        run_folder=RUN_FOLDER,
        folder=folder,
        balance=settings.gateway_balance,
        router_key=router_key,
        router_port=settings.gateway_router_port,
        metrics=(metrics_bind(host, monitors), settings.gateway_metrics_port) if monitors else None,
    )


def known_clients(text: str) -> dict[str, str]:
    """Return the key of each client by its name, from the file of a gateway."""
    return {name: key for key, _, name in (line.partition(" ") for line in text.splitlines()) if name}


def remembered(text: str) -> dict[str, Served]:
    """Return what hosts served when a gateway's files were made; empty where that cannot be read."""
    try:
        return {
            name: Served(**{**values, "adapters": tuple(values.get("adapters", ()))})
            for name, values in json.loads(text).items()
        }
    except (ValueError, TypeError, AttributeError):
        return {}


def to_remember(served: Mapping[str, Served]) -> str:
    """Return the text that `remembered` reads. It holds keys."""
    return json.dumps({name: asdict(one) for name, one in sorted(served.items())}) + "\n"


def reached_at(host: Host) -> str:
    """Return the name or address by which clients reach a gateway."""
    bind = host.settings.gateway_bind.strip("[]")
    if host.settings.gateway_address is not None:
        return host.settings.gateway_address.partition("/")[0]
    if bind in EVERYWHERE:
        return host.connection.address or "localhost"
    return bind


def certificate_names(host: Host) -> list[str]:
    """Return the names of a self-signed certificate, as openssl takes them."""
    own = () if host.settings.gateway_address is None else (host.connection.address,)
    names = dict.fromkeys(filter(None, (reached_at(host), *own, "localhost", "127.0.0.1")))
    return [f"IP:{name}" if is_ip(name) else f"DNS:{name}" for name in names]


def read_certificate(path: str | None, host: str) -> str | None:
    """Return the user's certificate, chain and key; None where no file was given. Raises InventoryError where the file has no such pair."""
    if path is None:
        return None
    hint = (
        "firstlight_gateway_certificate names one PEM file: the certificate, its chain, and its key without a password"
    )
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, password=lambda: "")
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = "its key belongs to another certificate" if "KEY_VALUES_MISMATCH" in str(error) else str(error)
        raise InventoryError(f"gateway `{host}`: certificate `{path}` cannot be used: {why}", hint=hint) from None
