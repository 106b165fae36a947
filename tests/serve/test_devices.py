"""Which cards serve, and how a model is split over them."""

from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.errors import InventoryError
from provision.core.models.facts import NvidiaGpu
from provision.core.models.settings import Settings
from provision.phases.serve.devices import Devices, choose_devices
from tests.serve.conftest import GIB, SLICES, card, cards, facts, stack

T4 = ("Tesla T4", "7.5", 16 * GIB)


def chosen(*seen: NvidiaGpu, heads: int | None = 32, planned: dict[str, Any] | None = None, **settings: Any) -> Devices:
    """Return the devices of a service; `planned` is what its Stack has of the plan's choice."""
    plan = stack("0.26.0", "cu130", "FLASH_ATTN").model_copy(update=planned or {"gpus": settings.get("gpus", ())})
    return choose_devices(plan, Settings(**settings), facts(*seen), attention_heads=heads)


def test_the_cards_that_the_plan_chose_serve() -> None:
    devices = chosen(card(0, *T4), card(1), card(2), planned={"gpus": (1, 2)})
    assert (devices.indexes, devices.tensor_parallel, devices.compute_capability) == ((1, 2), 2, "9.0")


@pytest.mark.parametrize(("count", "heads", "tensor"), [(3, 32, 2), (8, 40, 8), (6, 28, 4), (7, None, 7), (1, 1, 1)])
def test_split_divides_the_heads(count: int, heads: int | None, tensor: int) -> None:
    devices = chosen(*cards(count), heads=heads)
    assert devices.tensor_parallel == tensor
    assert len(devices.indexes) == tensor


def test_pipeline_and_data_parallel_take_their_share_first() -> None:
    devices = chosen(*cards(8), pipeline_parallel=2, data_parallel=2)
    assert (devices.tensor_parallel, devices.processes, len(devices.indexes)) == (2, 8, 8)


def test_least_capability_of_mixed_cards_counts() -> None:
    assert chosen(card(0, capability="10.0"), card(1, *T4), gpus=(0, 1)).compute_capability == "7.5"


@pytest.mark.parametrize(
    ("settings", "count"), [({"tensor_parallel": 4}, 2), ({}, 0)], ids=["split-too-wide", "no-card"]
)
def test_refusals_name_the_host_and_the_values(
    settings: dict[str, Any], count: int, snapshot: SnapshotAssertion
) -> None:
    with pytest.raises(InventoryError) as refused:
        chosen(*cards(count), **settings)
    assert refused.value.render() == snapshot


def test_the_slice_that_the_plan_chose_serves() -> None:
    planned = {"gpus": (1,), "gpu_slice": 1}
    devices = chosen(card(0), card(1, slices=SLICES), planned=planned)
    assert (devices.indexes, devices.part, devices.processes) == ((1,), SLICES[1], 1)
    with pytest.raises(InventoryError, match="GPU 1 has no slice 1"):
        chosen(card(0), card(1, slices=SLICES[:1]), planned=planned)


def test_cpu_host_needs_no_card() -> None:
    devices = choose_devices(stack(), Settings(), facts(), attention_heads=8)
    assert (devices.platform, devices.indexes, devices.processes) == ("cpu", (), 1)
