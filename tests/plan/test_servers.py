"""Servers by their product name: the GPUs and the network cards that each of them has."""

from pathlib import Path

import pytest

from provision.catalog import catalog
from provision.core.models.facts import Amd, AmdGpu, HostFacts, PciGpu
from provision.phases.plan.cards import server_of
from provision.phases.probe.assemble import parse
from tests.plan.planned import resolve, texts_of

RECORDED = Path(__file__).resolve().parents[1] / "probe" / "recorded" / "h100-sxm8.txt"


@pytest.fixture(scope="module")
def dgx() -> HostFacts:
    """Eight GPUs, and next to each a network card."""
    return parse("dgx", RECORDED.read_text(encoding="utf-8")).model_copy(update={"product": "DGXH100"})


def without_network_card(facts: HostFacts, name: str) -> HostFacts:
    assert facts.topology
    left = tuple(device for device in facts.topology.devices if device.name != name)
    return facts.model_copy(update={"topology": facts.topology.model_copy(update={"devices": left})})


def verdicts(facts: HostFacts) -> list[str]:
    return texts_of(resolve(facts), "server-product", "warn")


def test_a_whole_server_has_no_warning(dgx: HostFacts) -> None:
    assert verdicts(dgx) == []


def test_a_missing_network_card_of_the_fabric_is_a_warning(dgx: HostFacts) -> None:
    (text,) = verdicts(without_network_card(dgx, "mlx5_3"))
    assert text == "7 of 8 network cards for the fabric of GPUs are there (DGX H100 or H200)"


def test_network_cards_elsewhere_on_the_bus_do_not_replace_it(dgx: HostFacts) -> None:
    assert dgx.topology
    far = dgx.topology.devices[1].model_copy(update={"address": "0000:f1:00.0", "bridges": ("0000:f0:00.0",)})
    devices = (*dgx.topology.devices, far)
    more = dgx.model_copy(update={"topology": dgx.topology.model_copy(update={"devices": devices})})
    assert len(verdicts(without_network_card(more, "mlx5_3"))) == 1


def test_without_the_topology_nothing_is_said_of_network_cards(dgx: HostFacts) -> None:
    assert verdicts(dgx.model_copy(update={"topology": None})) == []


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("DGXH100", "DGX H100 or H200"),
        ("NVIDIA DGX H200", "DGX H100 or H200"),
        ("PowerEdge XE9680", "Dell PowerEdge XE9680"),
        ("SYS-821GE-TNHR", "Supermicro SYS-821GE-TNHR"),
        ("p5.48xlarge", "Amazon EC2 with 8 GPUs"),
        ("p5.4xlarge", None),
        ("DGX Station", None),
        ("PowerEdge XE96800", None),
        (None, None),
    ],
)
def test_a_product_is_known_by_its_whole_name(dgx: HostFacts, product: str | None, name: str | None) -> None:
    found = server_of(dgx.model_copy(update={"product": product}))
    assert (found.name if found else None) == name


@pytest.mark.parametrize("name", ["AMD Instinct MI300X", "AMD Instinct MI300X VF", None])
def test_a_server_with_amd_gpus_is_known_and_partitions_of_a_gpu_are_counted_once(name: str | None) -> None:
    bus = [f"0000:{number:02x}:00" for number in range(0x20, 0x27)]
    pci = tuple(PciGpu(address=f"{slot}.0", vendor_id="1002", device_id="74a1", class_id="1200") for slot in bus)
    places = [f"{slot}.{part}" for slot in bus for part in range(2)]
    gpus = tuple(AmdGpu(index=index, name=name, pci_address=place) for index, place in enumerate(places))
    facts = HostFacts(host="h", probed_at="", product="PowerEdge XE9680", pci_gpus=pci, amd=Amd(gpus=gpus))
    found = server_of(facts)
    assert found
    assert (found.name, found.found, found.gpus) == ("Dell PowerEdge XE9680", 7, 8)


def test_every_card_of_a_product_is_in_the_catalog() -> None:
    names = {card.name for card in catalog().nvidia_cards} | {card.name for card in catalog().amd_cards}
    assert {card for row in catalog().servers for card in row.cards} <= names


def test_a_server_that_lacks_a_gpu_is_not_called_whole_where_the_setting_names_others(dgx: HostFacts) -> None:
    assert dgx.nvidia
    fewer = dgx.nvidia.model_copy(update={"gpus": dgx.nvidia.gpus[:-1]})
    lacking = dgx.model_copy(update={"nvidia": fewer, "pci_gpus": dgx.pci_gpus[:-1]})
    text = "7 of 8 GPUs of this server are there (DGX H100 or H200)"
    found = resolve(lacking, gpus=(0, 1))
    assert texts_of(found, "server-product") == texts_of(found, "server-product", "accept") == [text]
