"""One host's part in a span: what vLLM gets to know of the other hosts, and the program that starts and ends it with them. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from provision.core.models.base import Record
from provision.core.models.settings import Settings, Span
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

    @property
    def is_headless(self) -> bool:
        """Whether its server answers no requests."""
        return self.rank > 0

    @property
    def options(self) -> tuple[str, ...]:
        """Return the arguments of `vllm serve`."""
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

    def program(self, prefix: str) -> tuple[str, ...]:
        """Return the command that vLLM's is appended to.

        Args:
            prefix: Folder of the installation.
        """
        python = (f"{prefix}/current/bin/python", "-I", "-S", f"{prefix}/bin/{SPAN}")
        span = ("--rank", str(self.rank), "--addresses", ",".join(self.addresses), "--port", str(self.port + 1))
        address, port = self.engine
        asked = () if self.is_headless else ("--engine", address, str(port))
        return (*python, *span, "--agreement", self.agreement, *asked, "--")


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
    )
