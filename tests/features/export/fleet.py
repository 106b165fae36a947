"""A fleet as the tests of the export need it: hosts, their facts, and what is planned for them. No network is used."""

from collections.abc import Sequence
from typing import Any

from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.core.models.stack import Stack
from provision.features.export.workloads import Workload, workloads
from provision.features.multinode.spans import with_spans
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from tests.fit.models import llama_8b, llama_70b

MACHINE = "os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=1024 disk=2000"
H100S = f"gpu=H100x8 driver=580.95.05 {MACHINE}"
SMALL, LARGE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
DIGEST = f"sha256:{'0' * 64}"


def host(name: str, *groups: str, address: str = "192.0.2.1", **settings: Any) -> Host:
    """Return a host that is reached over SSH."""
    connection = Connection(kind="ssh", address=address)
    wanted = Settings(**{"model": SMALL, "expose": True, "bind": "0.0.0.0", **settings})
    return Host(name=name, groups=groups or ("gpus",), connection=connection, settings=wanted)


def span(*names: str, **settings: Any) -> tuple[Host, ...]:
    """Return hosts that serve one model together."""
    own = {"model": LARGE, "span": len(names), "max_model_len": 8192, **settings}
    return with_spans([host(name, "large", address=f"192.0.2.{20 + n}", **own) for n, name in enumerate(names)])


def facts_of(hosts: Sequence[Host], machine: str = H100S, **served: str) -> dict[str, HostFacts]:
    """Return the facts of equal hosts; `served` has the name of the model that a host serves now, by host."""
    found = {}
    for one in hosts:
        facts = parse_what_if(machine).model_copy(update={"host": one.name})
        if one.name in served:
            state = {"readiness": {"served_name": served[one.name], "host": one.settings.bind, "port": 8000}}
            facts = facts.model_copy(update={"installed": Installed(prefix="/opt/firstlight", state=state)})
        found[one.name] = facts
    return found


def stacks_of(hosts: Sequence[Host], facts: dict[str, HostFacts]) -> dict[str, Stack]:
    """Return what is planned for the hosts."""
    settings = {one.name: one.settings for one in hosts}
    shapes = {one.model: llama_70b() if one.model == LARGE else llama_8b() for one in settings.values()}
    chosen = choose_stacks(facts, settings, shapes=shapes)
    return {name: each.stack for each in chosen.classes for name in each.hosts if each.stack}


def workloads_of(hosts: Sequence[Host], machine: str = H100S, **served: str) -> list[Workload]:
    """Return the workloads of hosts that are planned."""
    facts = facts_of(hosts, machine, **served)
    return workloads(hosts, facts, stacks_of(hosts, facts))
