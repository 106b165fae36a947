"""Where spans take part in the work of the core: the inventory, the command of a service, programs on hosts, checks, firewalls."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from provision.core.folders import product_path
from provision.core.models.inventory import Span
from provision.core.models.settings import Settings
from provision.features.multinode.addresses import SpanAddresses
from provision.features.multinode.coordinator import try_together
from provision.features.multinode.spans import with_spans
from provision.phases.serve.command_line import SpanMember
from provision.phases.serve.devices import Devices
from provision.phases.serve.options import options
from provision.phases.serve.tools import SHARED, built

__all__ = ["host_programs", "neighbours", "span_member", "try_together", "with_spans"]

PROGRAM = "span.pyz"
PACKAGE = Path(__file__).parent / "onhost" / "span"
NETWORK = tuple(product_path("verify") / name for name in ("files.py", "host/network.py"))

neighbours = SpanAddresses


def host_programs(folder: Path) -> dict[str, Path]:
    """Return the program that starts a server with those of the other hosts, and ends it with them."""
    return {PROGRAM: built(folder / PROGRAM, PACKAGE, "span.main:main()", (*SHARED, *NETWORK))}


def span_member(
    span: Span, settings: Settings, *, name: str, agreed: Sequence[str], prefix: str, devices: Devices
) -> SpanMember:
    """Return a host's part in its span, whose hosts have to have `agreed` in common."""
    rank = span.members.index(name)
    with_ray, headless = settings.executor == "ray", rank > 0
    digest = hashlib.sha256(json.dumps([span.model_dump(), *agreed], sort_keys=True).encode()).hexdigest()[:16]
    # span.pyz adds the name of the interface, which it finds by the address.
    threads = {"VLLM_CPU_OMP_THREADS_BIND": str(options()["span"]["cpu_threads"])} if devices.platform == "cpu" else {}
    python = (f"{prefix}/current/bin/python", "-I", "-S", f"{prefix}/bin/{PROGRAM}")
    place = ("--rank", str(rank), "--addresses", ",".join(span.addresses), "--port", str(settings.span_port + 1))
    ray = ("--ray", *map(str, (devices.processes, settings.span_port, *settings.ray_ports))) if with_ray else ()
    return SpanMember(
        place=(str(rank), str(len(span.members))),
        agreement=digest,
        is_headless=headless,
        options=_options(span, settings, rank),
        environment={"VLLM_HOST_IP": span.addresses[rank], **threads},
        launcher=(*python, *place, "--agreement", digest, *ray),
        has_server=not (with_ray and headless),
    )


def _options(span: Span, settings: Settings, rank: int) -> tuple[str, ...]:
    """Return the arguments of `vllm serve`; Ray starts vLLM's processes on all hosts, without it each host starts its own."""
    if settings.executor == "ray":
        return ("--distributed-executor-backend", "ray")
    hosts = ("--nnodes", str(len(span.addresses)), "--node-rank", str(rank))
    meeting = ("--master-addr", span.addresses[0], "--master-port", str(settings.span_port))
    return (*hosts, *meeting, *(("--headless",) if rank else ()))
