"""What each of several services of a machine gets: GPUs by what fits and how they are linked, or a part of a CPU host."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host, Service
from provision.core.models.settings import Settings
from provision.phases.plan.services import nvlink_groups, part_of, with_gpus
from provision.phases.plan.step import _shapes
from tests.fit.models import LLAMA_8B, llama_8b, llama_70b, write_model
from tests.pipeline.local_context import local_context

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
    services = services_of(a={"tensor_parallel": 2}, b={"tensor_parallel": 4})
    assert divided(services, facts) == {"a": (0, 1), "b": (2, 3, 4, 5)}


def test_too_few_gpus_are_refused_with_what_each_service_needs() -> None:
    hosts = services_of(a={"tensor_parallel": 2}, b={})
    with pytest.raises(InventoryError) as caught:
        with_gpus(hosts[0], facts_of(2), {})
    needed = "host `m`: 2 GPUs are free for its services, and 3 are needed: `m@a` at least 2 and `m@b` at least 1"
    assert str(caught.value) == needed


def test_folders_of_other_services_are_read_where_they_decide_on_gpus(tmp_path: Path) -> None:
    """The folder of `chat` came with a bundle; that of `small` is on another machine."""
    folder = write_model(tmp_path / "chat", LLAMA_8B, {"x": ("BF16", [64], 2)})
    missing = str(tmp_path / "small")

    def shapes(facts: HostFacts, **chat: Any) -> tuple[set[str], bool]:
        context = local_context(tmp_path, "")
        hosts = services_of(chat={"model": str(folder), **chat}, small={"model": missing})
        context.inventory = context.inventory.model_copy(update={"hosts": (hosts[0],)})
        found = _shapes(context, {"m@chat": facts})
        return {*found}, context.has_failed("m@chat")

    assert shapes(facts_of(0)) == ({str(folder)}, False)
    assert shapes(facts_of(2), gpus=[0]) == ({str(folder)}, False)
    assert shapes(facts_of(2)) == ({str(folder)}, True)


def split_in(*sizes: int) -> dict[str, Any]:
    """Return a GPU in MIG mode whose slices have so many GiB."""
    slices = [
        {"index": index, "profile": f"{size}g", "uuid": f"MIG-{index}", "memory_total": size * GIB}
        for index, size in enumerate(sizes)
    ]
    return {"mig_mode": "enabled", "mig_devices": len(slices), "slices": slices}


def test_each_service_gets_the_smallest_slice_on_which_its_model_fits() -> None:
    hosts = services_of(small={}, large={"model": "o/8b"}, named={"gpus": ["0:1"]})
    facts = facts_of(2, **split_in(40, 10))
    found = {host.name: with_gpus(host, facts, {"o/8b": llama_8b()}).gpus for host in hosts}
    assert found == {"m@small": ("1:1",), "m@large": ("0:0",), "m@named": ("0:1",)}


def test_a_container_gets_slices_that_vllm_does_not_find_on_the_host() -> None:
    facts = facts_of(1, **split_in(40, 40))
    contained = {"runtime": "podman", "image": "/debian.tar"}
    assert divided(services_of(a={}, b=contained), facts) == {"a": ("0:0",), "b": ("0:1",)}
    with pytest.raises(InventoryError) as caught:
        divided(services_of(a={}, b={}), facts)
    assert str(caught.value) == "host `m`: no slice of its GPUs is left for `m@b`; free are 0:0 (40g), 0:1 (40g)"
    assert "firstlight_runtime: podman" in (caught.value.hint or "")


def test_whole_gpus_are_divided_before_slices() -> None:
    facts, split = facts_of(2), facts_of(2, **split_in(40))
    assert facts.nvidia is not None
    assert split.nvidia is not None
    mixed = facts.nvidia.model_copy(update={"gpus": (facts.nvidia.gpus[0], split.nvidia.gpus[1])})
    seen = facts.model_copy(update={"nvidia": mixed})
    assert divided(services_of(a={"gpus": ["1:0"]}, b={}), seen) == {"a": ("1:0",), "b": (0,)}
    with pytest.raises(InventoryError) as caught:
        divided(services_of(a={}, b={}), seen)
    assert "name slices for some: gpus" in (caught.value.hint or "")


@pytest.mark.slow
@given(st.lists(st.sampled_from([10, 20, 40]), max_size=4), st.integers(2, 5))
def test_no_slice_is_given_twice(sizes: list[int], count: int) -> None:
    hosts = services_of(**{f"s{number}": {"model": "o/8b"} if number % 2 else {} for number in range(count)})
    facts = facts_of(4, **split_in(*sizes))
    try:
        found = [with_gpus(host, facts, {"o/8b": llama_8b()}).gpus for host in hosts]
    except InventoryError:
        return
    assert len(set(found)) == count


def test_services_of_a_cpu_host_get_equal_parts_of_memory_and_processors() -> None:
    [host, _] = services_of(a={}, b={})
    part = part_of(host, facts_of(0))
    assert (part.memory.total, part.memory.available, part.cpu.logical) == (32 * GIB, 30 * GIB, 16)
    facts = facts_of(1)
    assert part_of(host, facts) is facts
    assert with_gpus(host, facts_of(0), {}).gpus == "all"
