"""What a gateway's configuration is made from."""

from dataclasses import dataclass, field
from typing import Literal

from provision.core.models.records import Task

Balance = Literal["requests", "prefixes", "router"]
"""What decides which host gets a request: that it has the fewest, the beginning of the request's prompt, or vllm-router."""


@dataclass(frozen=True)
class Backend:
    """A serving host as the gateway reaches it."""

    name: str
    """Of the host in the inventory."""
    model: str
    """Name of its model in the API."""
    address: str
    """IP address or name, as the gateway reaches it."""
    port: int
    key: str | None = field(repr=False)
    """The host's own API key; None where it asks for none."""
    health_port: int | None = None
    """Port of its health agent, at the same address; None where it has none."""
    adapters: tuple[str, ...] = ()
    """Names of the model's LoRA adapters in the API."""
    task: Task = "generate"


@dataclass(frozen=True)
class Limits:
    """What the gateway lets through."""

    body_mib: int
    """MiB of one request; as much is kept of each until its model is known."""
    host_requests: int
    """Requests that one host works on at a time; as many again may wait for it."""
    requests_per_minute: int | None
    """Of one client; None: as many as it likes."""


@dataclass(frozen=True)
class Probe:
    """How a host is asked for one token, apart from its clients."""

    interval_s: int = 10
    patience_s: int = 60
    """Longer than a host at work lets a new request wait; two answers must be missing before it is taken out."""


@dataclass(frozen=True)
class Gateway:
    """One gateway with everything that it needs to know."""

    bind: str
    port: int
    tls: bool
    backends: tuple[Backend, ...]
    clients: dict[str, str] = field(repr=False)
    """Key of each client by its name."""
    limits: Limits
    run_folder: str
    """Folder of its sockets, which HAProxy's account alone may enter."""
    folder: str
    """Folder on its host that has the folder of its files, and what it remembers."""
    account: str | None = "haproxy"
    """Account that it runs as after it has read its files; None: that of its process."""
    probe: Probe = Probe()
    balance: Balance = "requests"
    router_key: str = field(default="", repr=False)
    """What requests carry that pass vllm-router. It stays the same: a process of before a reload still answers some."""
    router_port: int = 8600
    """Port of vllm-router, and of the listeners behind it, at loopback addresses."""
    metrics: tuple[str, int] | None = None
    """Address and port at which it offers HAProxy's figures to Prometheus; None: nowhere."""

    def models(self) -> dict[str, list[Backend]]:
        """Return the back ends by model, both in order of their names."""
        found: dict[str, list[Backend]] = {}
        for backend in sorted(self.backends, key=lambda one: (one.model, one.name)):
            found.setdefault(backend.model, []).append(backend)
        return found

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
        return {**adapters, **{model: model for model in models}}
