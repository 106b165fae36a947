"""Slices that the settings want, before they are made."""

from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts, Nvidia, NvidiaGpu, PciGpu
from provision.core.models.settings import Settings
from provision.phases.plan.cards import is_made, layout_of, nvidia_cards, with_slices

A100 = PciGpu(address="0000:1b:00.0", vendor_id="10de", device_id="20b2", class_id="030200")


def facts(*gpus: NvidiaGpu, **nvidia: Any) -> HostFacts:
    return HostFacts(
        host="gpu-1",
        probed_at="2026-11-20T08:00:00.000Z",
        pci_gpus=(A100,),
        nvidia=Nvidia(gpus=gpus, driver_version="580.95.05" if gpus else None, **nvidia),
    )


def gpu(index: int, mode: Any = "disabled", name: str = "NVIDIA A100-SXM4-80GB") -> NvidiaGpu:
    return NvidiaGpu(index=index, name=name, memory_total=80 << 30, mig_mode=mode)


def test_gpus_are_planned_as_they_will_be_split() -> None:
    wanted = Settings.model_validate({"mig": {"1": ["3g.40gb", "1g.10gb+me"]}})
    seen = with_slices(facts(gpu(0), gpu(1)), wanted)
    whole, split = nvidia_cards(seen)
    assert (whole.mig, split.mig, split.slices) == (False, True, 2)
    assert [(part.place, part.memory_gib) for part in split.sliced()] == [("1:0", 37), ("1:1", 9)]
    off = Settings.model_validate({"mig": {1: []}})
    assert [card.mig for card in nvidia_cards(with_slices(seen, off))] == [False, False]
    assert with_slices(seen, Settings()) is seen


def test_a_gpu_that_only_the_bus_shows_is_planned_as_it_will_be_split() -> None:
    (card,) = nvidia_cards(with_slices(facts(), Settings.model_validate({"mig": {0: ["3g.40gb"]}})))
    assert (card.name, card.slices) == ("A100", 1)


@pytest.mark.parametrize(
    ("index", "text"), [(5, "GPU 5, which is not there"), (0, "GPU 0, which cannot be split")], ids=["absent", "t4"]
)
def test_a_gpu_that_cannot_be_split_is_refused(index: int, text: str) -> None:
    with pytest.raises(InventoryError, match=text):
        with_slices(facts(gpu(0, None, "Tesla T4")), Settings.model_validate({"mig": {index: ["3g.40gb"]}}))


def test_slices_are_made_if_they_are_there_and_at_the_next_boot_too() -> None:
    wanted = Settings.model_validate({"mig": {0: ["3g.40gb", "2g.20gb"]}})
    layout = layout_of(wanted.mig)
    assert layout == "0=3g.40gb,2g.20gb"
    split = with_slices(facts(gpu(0), mig_layout=layout), wanted)
    assert is_made(split, layout)
    assert not is_made(split, "0=3g.40gb")
    assert not is_made(with_slices(facts(gpu(0)), wanted), layout)
    assert not is_made(facts(gpu(0), mig_layout=layout), layout)
    assert not is_made(facts(), layout)
    assert is_made(facts(gpu(0), mig_layout="0="), "0=")
