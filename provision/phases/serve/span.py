"""One host's part in a span: what vLLM gets to know of the other hosts, and the program that starts and ends it with them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from provision.core.models.base import Record
from provision.core.models.inventory import Span
from provision.core.models.settings import Settings
from provision.fleet.inventory.addresses import listened_on, own_address
from provision.phases.serve.options import options
from provision.phases.serve.tools import SPAN


class SpanMember(Record):
    """One host of a span."""

    rank: int
    """Its place in the span; 0 is the head."""
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    port: int
    """Port of the head at which vLLM's processes meet."""
    agreement: str
    """Digest of what all hosts of the span have to have in common."""
    engine: tuple[str, int]
    """Address and port at which the head reaches its own server."""
    ray_ports: tuple[int, int] | None = None
    """First and last port of Ray on each host; None where vLLM starts its processes on all hosts by itself."""

    @property
    def is_headless(self) -> bool:
        """Whether its server answers no requests."""
        return self.rank > 0

    @property
    def options(self) -> tuple[str, ...]:
        """Return the arguments of `vllm serve`, which Ray's hosts run on the head alone."""
        if self.ray_ports:
            return ("--distributed-executor-backend", "ray")
        hosts = ("--nnodes", str(len(self.addresses)), "--node-rank", str(self.rank))
        meeting = ("--master-addr", self.addresses[0], "--master-port", str(self.port))
        return (*hosts, *meeting, *(("--headless",) if self.is_headless else ()))

    def environment(self, *, on_cpu: bool) -> dict[str, str]:
        """Return variables of the service; span.pyz adds the name of the interface, which it finds by the address.

        Args:
            on_cpu: Whether the host computes on its CPU.
        """
        threads = {"VLLM_CPU_OMP_THREADS_BIND": str(options()["span"]["cpu_threads"])} if on_cpu else {}
        return {"VLLM_HOST_IP": self.addresses[self.rank], **threads}

    def started(self, prefix: str, server: Sequence[str], processes: int) -> tuple[str, ...]:
        """Return the command of the program that starts the server with those of the other hosts.

        Args:
            prefix: Folder of the installation.
            server: Command of vLLM's server.
            processes: Number of vLLM's processes on this host, which Ray starts.
        """
        python = (f"{prefix}/current/bin/python", "-I", "-S", f"{prefix}/bin/{SPAN}")
        span = ("--rank", str(self.rank), "--addresses", ",".join(self.addresses), "--port", str(self.port + 1))
        address, port = self.engine
        asked = () if self.is_headless else ("--engine", address, str(port))
        ray = ("--ray", *map(str, (processes, self.port, *self.ray_ports))) if self.ray_ports else ()
        command = ("--", *server) if not (self.ray_ports and self.is_headless) else ()
        return (*python, *span, "--agreement", self.agreement, *asked, *ray, *command)


def member_of(span: Span, settings: Settings, *, name: str, agreed: Sequence[str]) -> SpanMember:
    """Return a host's part in its span.

    Args:
        span: The hosts.
        settings: Settings of the host.
        name: The host.
        agreed: What all hosts of the span have to have in common.
    """
    digest = hashlib.sha256(json.dumps([span.model_dump(), *agreed], sort_keys=True).encode()).hexdigest()[:16]
    rank = span.members.index(name)
    return SpanMember(
        rank=rank,
        names=span.members,
        addresses=span.addresses,
        port=settings.span_port,
        agreement=digest,
        engine=(own_address(listened_on(settings.bind)), settings.port),
        ray_ports=settings.ray_ports if settings.executor == "ray" else None,
    )
