"""Names of cards from drivers, and PCI ids."""

from dataclasses import replace

import pytest

from provision.catalog import catalog
from provision.core.models.facts import GpuSlice, HostFacts, Nvidia, NvidiaGpu, PciGpu
from provision.phases.plan.cards import (
    Card,
    Coverage,
    amd_row,
    coverage,
    nvidia_by_name,
    nvidia_capability,
    nvidia_cards,
    serving,
    written,
)


def cards_of(*bus: str, gpu: NvidiaGpu | None = None) -> tuple[Card, ...]:
    """Return the cards of a host with these vendors and devices on its bus, of which the driver shows one or none."""
    pci = tuple(
        PciGpu(address=f"0000:0{number}:00.0", vendor_id=vendor, device_id=device, class_id="0302")
        for number, (vendor, device) in enumerate(each.split(":") for each in bus)
    )
    nvidia = Nvidia(gpus=(gpu,)) if gpu else None
    return nvidia_cards(HostFacts(host="h", probed_at="", pci_gpus=pci, nvidia=nvidia))


@pytest.mark.parametrize(
    ("driver_name", "name"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX4070TiSUPER"),
        ("NVIDIA GeForce RTX 4070 Ti", "RTX4070Ti"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100PCIe"),
        ("NVIDIA A100-PCIE-40GB", "A100PCIe"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100PCIe"),
        ("NVIDIA H100 NVL", "H100NVL"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("Tesla T4", "T4"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Quadro RTX 6000", "RTX6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX6000Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
        ("NVIDIA RTX A6000", "RTXA6000"),
        ("NVIDIA RTX A2000 12GB", "RTXA2000"),
        ("NVIDIA GeForce GTX 1060 6GB", "GTX1060"),
        ("NVIDIA TITAN RTX", "TITANRTX"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTXPRO6000"),
        ("NVIDIA B300 SXM6 AC", "B300"),
        ("NVIDIA H100 64GB HBM2", "H100"),
        ("Tesla V100S-PCIE-32GB", "V100SPCIe"),
    ],
)
def test_names_from_drivers_are_recognised(driver_name: str, name: str) -> None:
    row = nvidia_by_name(driver_name)
    assert row is not None
    assert row.name == name


def test_names_of_amd_cards_are_recognised() -> None:
    for name, gfx in (
        ("AMD Instinct MI300X OAM", "gfx942"),
        ("AMD Radeon PRO W7900", "gfx1100"),
        ("AMD Radeon RX 7900 XT", "gfx1100"),
    ):
        row = amd_row(name)
        assert row is not None
        assert row.gfx == gfx


def test_an_unknown_name_has_no_row() -> None:
    assert nvidia_by_name("NVIDIA Graphics Device") is None


def test_cards_on_the_bus_are_recognised() -> None:
    cards = cards_of("10de:2330", "10de:ffff", "8086:9bc5")
    assert [(card.name, card.compute_capability) for card in cards] == [("H100", "9.0"), ("NVIDIA GPU ffff", None)]
    assert len(serving(cards)) == 1


def test_a_card_without_a_row_has_the_compute_capability_of_its_chip() -> None:
    cards = cards_of("10de:1DF2", "10de:20f0", "10de:2313")
    assert [card.compute_capability for card in cards] == ["7.0", "8.0", "9.0"]


def test_cards_of_one_name_have_the_memory_of_their_pci_ids() -> None:
    cards = cards_of("10de:20B0", "10de:20b2")
    assert [(card.name, card.memory_gib) for card in cards] == [("A100", 39), ("A100", 79)]
    assert all(set(row.smaller) < set(row.ids) for row in catalog().nvidia_cards if row.smaller)


def test_the_ranges_of_pci_ids_agree_with_the_cards() -> None:
    ids = {identity: row.compute_capability for row in catalog().nvidia_cards for identity in row.ids}
    assert {identity: nvidia_capability(identity) for identity in ids} == ids


@pytest.mark.parametrize(
    ("codes", "capability", "found"),
    [
        (("80", "90"), "8.9", Coverage.NATIVE),
        (("86",), "8.0", Coverage.NONE),
        (("80", "p80"), "12.0", Coverage.PTX),
        (("80",), "9.0", Coverage.NONE),
        (("90", "p90"), "8.9", Coverage.NONE),
        (("100",), "10.3", Coverage.NATIVE),
        (("120",), "10.0", Coverage.NONE),
    ],
)
def test_code_covers_its_compute_capabilities(codes: tuple[str, ...], capability: str, found: Coverage) -> None:
    assert coverage(codes, capability) is found


def test_codes_in_nvidias_notation_are_read() -> None:
    assert written(("80", "p80")) == "sm_80, compute_80"


def test_a_card_of_another_name_is_looked_up_by_its_pci_id() -> None:
    gpu = NvidiaGpu(index=0, name="NVIDIA Board 7", pci_address="0000:00:00.0")
    assert [card.name for card in cards_of("10de:3182", gpu=gpu)] == ["B300"]


def test_a_split_card_has_the_memory_of_its_slice() -> None:
    gpu = NvidiaGpu(
        index=0, name="NVIDIA H100", memory_total=80 << 30, mig_mode="enabled", mig_devices=7, mig_memory=9 << 30
    )
    assert [card.memory_gib for card in cards_of(gpu=gpu)] == [9]


def test_a_split_card_counts_as_one_slice_unless_services_share_it() -> None:
    split, whole = Card("10de", 0, "A100", memory_gib=40, mig=True, slices=2), Card("10de", 2, "A100", memory_gib=79)
    cards = (split, replace(split, index=1), replace(split, index=3), whole)
    assert serving(cards) == (whole,)
    assert serving(cards[:3]) == (split,)
    assert serving(cards, shared=True) == cards[:3]


def test_a_slice_serves_as_a_card_with_its_memory() -> None:
    slices = (GpuSlice(index=0, memory_total=40192 << 20), GpuSlice(index=1, memory_total=9856 << 20))
    gpu = NvidiaGpu(index=3, name="NVIDIA H100", mig_mode="enabled", mig_devices=2, slices=slices)
    (card,) = cards_of(gpu=gpu)
    assert [(part.place, part.memory_gib) for part in card.sliced()] == [("3:0", 39), ("3:1", 9)]
    assert card.place == 3
