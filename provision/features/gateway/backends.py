"""The hosts behind a gateway, and the gateway itself, from the inventory and from what hosts said. Pure."""

import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from provision.core.errors import InventoryError
from provision.core.grouping import gather
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.fleet.inventory.addresses import EVERYWHERE, address_from, is_ip, is_of_other_family, listened_on
from provision.run.served import Served

PACKAGES = ("haproxy", "openssl")
"""OS packages of a gateway, by the names of every distribution."""


@dataclass(frozen=True, kw_only=True)
class Backend(Served):
    """A serving host as the gateway reaches it."""

    name: str
    """Of the host in the inventory."""
    address: str
    """IP address or name, as the gateway reaches it."""


@dataclass(frozen=True)
class Gateway:
    """One gateway with everything that it needs to know."""

    settings: Settings
    backends: tuple[Backend, ...]
    clients: dict[str, str] = field(repr=False)
    """Key of each client by its name."""
    folder: str
    """Folder on its host that has the folder of its files, and what it remembers."""
    run_folder: str = "/run/firstlight-gateway"
    """Folder of its sockets, which HAProxy's account alone may enter."""
    account: str | None = "haproxy"
    """Account that it runs as after it has read its files; None: that of its process."""
    probe_interval_s: int = 10
    """How often a host is asked for one token, apart from its clients."""
    probe_patience_s: int = 60
    """Longer than a host at work lets a new request wait; two answers must be missing before it is taken out."""
    metrics: tuple[str, int] | None = None
    """Address and port at which it offers HAProxy's figures to Prometheus; None: nowhere."""

    @property
    def bind(self) -> str:
        """Return the address at which it listens."""
        return listened_on(self.settings.gateway_bind)

    def models(self) -> dict[str, list[Backend]]:
        """Return the back ends by model, both in order of their names."""
        ordered = sorted(self.backends, key=lambda one: (one.model, one.name))
        return gather((backend.model, backend) for backend in ordered)

    def budgets(self) -> dict[str, dict[str, int]]:
        """Return the tokens that each client has in a `minute` and in a `day`, by client; what has no limit is missing."""
        settings = self.settings
        limits = {"minute": settings.gateway_tokens_per_minute, "day": settings.gateway_tokens_per_day}
        return {
            client: {
                window: most
                for window, limit in limits.items()
                if (most := limit.get(client) if isinstance(limit, dict) else limit) is not None
            }
            for client in sorted(self.clients)
        }

    def names(self) -> dict[str, str]:
        """Return the model that answers requests for each name: its own, and those of adapters that all of its hosts have.

        While a rollout brings an adapter to the hosts of a model, some would answer 404.
        """
        models = self.models()
        adapters = {
            adapter: model
            for model, backends in models.items()
            for adapter in sorted(set.intersection(*(set(one.adapters) for one in backends)))
        }
        return adapters | {model: model for model in models}


def backends_of(gateway: Host, hosts: Iterable[Host], served: Mapping[str, Served]) -> tuple[Backend, ...]:
    """Return the back ends of a gateway, from what hosts said; those that serve nothing are missing.

    Raises InventoryError where a host listens where the gateway cannot reach it, or the gateway where clients cannot, there is no host at
    all, a name is that of two models or adapters, or clients have budgets of tokens that a host does not count.
    """
    settings, hosts = gateway.settings, tuple(hosts)
    # With a certificate of the site's own, clients use a name in it, which may be one of an IPv4 address.
    is_named = settings.gateway_address is not None or settings.gateway_certificate is not None
    if not is_named and is_of_other_family(gateway, settings.gateway_bind):
        raise InventoryError(
            f"gateway `{gateway.name}` listens on {settings.gateway_bind} alone, and clients are to use {gateway.connection.address}",
            hint="set firstlight_gateway_bind to '::'",
        )
    found, unreachable = [], []
    for host in hosts:
        if (said := served.get(host.name)) is None:
            continue
        if (address := address_from(gateway, host, said.bind)) is None:
            unreachable.append(f"host `{host.name}` listens on {said.bind}")
        else:
            found.append(Backend(**vars(said), name=host.name, address=address))
    if unreachable:
        raise InventoryError(
            f"gateway `{gateway.name}` cannot reach every host: {', '.join(unreachable)}",
            hint="set firstlight_bind of these hosts to an address of their private network and firstlight_expose: true; "
            "then ./firstlight serve",
        )
    if not found:
        raise InventoryError(
            f"gateway `{gateway.name}` has nothing to pass requests to: no host of the inventory serves",
            hint="start the hosts first: ./firstlight provision"
            if any(host.is_provisioned for host in hosts)
            else "put hosts that serve into a further group than gateway and monitoring: a place directly below `all` is none",
        )
    owners = gather((name, one.model) for one in found for name in (one.model, *one.adapters))
    for name, models in sorted(owners.items()):
        if len({*models}) > 1:
            raise InventoryError(
                f"gateway `{gateway.name}`: the name `{name}` stands for several: of the models {', '.join(sorted({*models}))}",
                hint="give each adapter in firstlight_lora a name of its own; then ./firstlight serve",
            )
    # What counts tokens also asks for the key.
    without = sorted(one.name for one in found if one.key is None)
    if without and (settings.gateway_tokens_per_minute or settings.gateway_tokens_per_day):
        raise InventoryError(
            f"gateway `{gateway.name}` is to limit tokens, which hosts without an API key do not count: {', '.join(without)}",
            hint="set firstlight_api_key: true for these hosts; then ./firstlight serve",
        )
    return tuple(found)


def remembered(text: str) -> dict[str, Served]:
    """Return what hosts served when a gateway's files were made; empty where that cannot be read."""
    try:
        return TypeAdapter(dict[str, Served]).validate_json(text)
    except ValidationError:
        return {}


def to_remember(served: Mapping[str, Served]) -> str:
    """Return the text that `remembered` reads. It holds keys."""
    return json.dumps({name: asdict(one) for name, one in sorted(served.items())}) + "\n"


def reached_at(host: Host) -> str:
    """Return the name or address by which clients reach a gateway."""
    if host.settings.gateway_address is not None:
        return host.settings.gateway_address.partition("/")[0]
    if host.settings.gateway_bind in EVERYWHERE:
        return host.connection.address or "localhost"
    return host.settings.gateway_bind


def certificate_names(host: Host) -> list[str]:
    """Return the names of a self-signed certificate, as openssl takes them."""
    own = () if host.settings.gateway_address is None else (host.connection.address,)
    names = dict.fromkeys(filter(None, (reached_at(host), *own, "localhost", "127.0.0.1")))
    return [f"IP:{name}" if is_ip(name) else f"DNS:{name}" for name in names]


def read_certificate(path: str | None, host: str) -> str | None:
    """Return the user's certificate, chain and key; None where no file was given. Raises InventoryError where no client could use it."""
    from cryptography.x509 import load_pem_x509_certificate

    if path is None:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path, password=lambda: "")
        text = Path(path).read_text(encoding="utf-8")
        end = load_pem_x509_certificate(text.encode()).not_valid_after_utc
        why = f"it expired on {end:%Y-%m-%d}" if end < datetime.now(UTC) else None
    except (OSError, ValueError) as error:
        why = "its key belongs to another certificate" if "KEY_VALUES_MISMATCH" in str(error) else str(error)
    if why is None:
        return text
    raise InventoryError(
        f"gateway `{host}`: certificate `{path}` cannot be used: {why}",
        hint="firstlight_gateway_certificate names one PEM file: the certificate, its chain, and its key without a password",
    )
