"""What each of several services of a machine gets: GPUs by what fits and how they are linked, or a part of a CPU host."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host, Service
from provision.core.models.settings import Settings
from provision.phases.plan.services import nvlink_groups, part_of, with_gpus
from tests.fit.models import llama_8b, llama_70b

GIB = 2**30


def services_of(**settings: dict[str, Any]) -> list[Host]:
    known = {name: Settings.model_validate(one) for name, one in settings.items()}
    services = tuple((f"m@{name}", one) for name, one in known.items())
    return [
        Host(
            name=f"m@{name}",
            connection=Connection(kind="local"),
            settings=one,
            service=Service(name=name, machine="m", services=services),
        )
        for name, one in known.items()
    ]


def facts_of(count: int, links: dict[str, int] | None = None, **gpu: Any) -> HostFacts:
    """Return a host with equal GPUs."""
    card = {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "memory_total": 80 * GIB, **gpu}
    return HostFacts.model_validate(
        {
            "host": "m",
            "probed_at": "2026-01-01T00:00:00Z",
            "cpu": {"logical": 32},
            "memory": {"total": 64 * GIB, "available": 60 * GIB},
            "nvidia": {"gpus": [{"index": index, **card} for index in range(count)]} if count else None,
            "topology": {"nvlinks": links or {}},
        }
    )


def divided(hosts: list[Host], facts: HostFacts) -> dict[str, Any]:
    return {host.name.removeprefix("m@"): with_gpus(host, facts, {}).gpus for host in hosts}


def test_no_gpu_is_given_twice_and_named_ones_stay() -> None:
    hosts = services_of(a={"tensor_parallel": 2}, b={"gpus": [0, 3]}, c={})
    assert divided(hosts, facts_of(6)) == {"a": (1, 2), "b": (0, 3), "c": (4,)}


@pytest.mark.parametrize(
    ("count", "large", "small"),
    [(3, (0, 1), (2,)), (4, (0, 1), (2, 3)), (8, (0, 1, 2, 3), (4, 5, 6, 7))],
)
def test_each_service_gets_as_many_gpus_as_fit_its_model_and_what_is_left(
    count: int, large: tuple[int, ...], small: tuple[int, ...]
) -> None:
    hosts = services_of(large={"model": "o/70b"}, small={"model": "o/8b"})
    shapes = {"o/70b": llama_70b(), "o/8b": llama_8b()}
    found = {host.settings.model: with_gpus(host, facts_of(count), shapes).gpus for host in hosts}
    assert found == {"o/70b": large, "o/8b": small}


def test_the_largest_service_gets_gpus_that_nvlinks_join() -> None:
    links = {"0-1": 4, "2-3": 4, "2-4": 4, "2-5": 4}
    facts = facts_of(6, links)
    assert nvlink_groups(facts, range(6)) == [[0, 1], [2, 3, 4, 5]]
    assert divided(services_of(a={}, b={"tensor_parallel": 4}), facts) == {"a": (0,), "b": (2, 3, 4, 5)}
    assert divided(services_of(a={"tensor_parallel": 2}, b={"tensor_parallel": 4}), facts) == {
        "a": (0, 1),
        "b": (2, 3, 4, 5),
    }


def test_too_few_gpus_are_refused_with_what_each_service_needs() -> None:
    hosts = services_of(a={"tensor_parallel": 2}, b={})
    with pytest.raises(InventoryError) as caught:
        with_gpus(hosts[0], facts_of(2), {})
    assert (
        str(caught.value)
        == "host `m`: 2 GPUs are free for its services, and 3 are needed: `m@a` at least 2 and `m@b` at least 1"
    )


def test_slices_of_a_gpu_are_not_divided() -> None:
    with pytest.raises(InventoryError, match="MIG mode is on at GPU 0"):
        with_gpus(services_of(a={}, b={})[0], facts_of(1, mig_mode="enabled", mig_devices=2), {})


def test_services_of_a_cpu_host_get_equal_parts_of_memory_and_processors() -> None:
    [host, _] = services_of(a={}, b={})
    part = part_of(host, facts_of(0))
    assert (part.memory.total, part.memory.available, part.cpu.logical) == (32 * GIB, 30 * GIB, 16)
    facts = facts_of(1)
    assert part_of(host, facts) is facts
    assert with_gpus(host, facts_of(0), {}).gpus == "all"
