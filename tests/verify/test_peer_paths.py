"""The path of writes between cards: redirection on the bus, and cards with direct links."""

from functools import partial
from pathlib import Path

import pytest

from tests.verify.nvml_stand_in import library
from tests.verify.test_devices import function
from verify.checks.devices import host as peer_path_check
from verify.host.views import Gpu, amd_smi, nvml, pci
from verify.host.views.nvml import read_health
from verify.host.views.pci import PeerPath
from verify.records import CheckContext


def config(*capabilities: tuple[int, int]) -> bytes:
    """Return the configuration of a bridge whose extended capabilities have these numbers and control words."""
    places = [0x100 + 16 * number for number in range(len(capabilities))]
    written = bytearray(4096)
    for place, (number, control), following in zip(places, capabilities, [*places[1:], 0], strict=True):
        written[place : place + 4] = (following << 20 | 1 << 16 | number).to_bytes(4, "little")
        written[place + 6 : place + 8] = control.to_bytes(2, "little")
    return bytes(written)


AER, ACS = 0x0001, 0x000D


@pytest.mark.parametrize(
    ("written", "redirected"),
    [
        (config((AER, 0xFFFF), (ACS, 0x001D)), True),
        (config((AER, 0), (ACS, 0x0001)), False),
        (config((AER, 0)), False),
        (b"\0" * 256, False),
        (b"\0" * 64, None),
        (b"", None),
    ],
)
def test_the_acs_of_a_bridge_is_read_as_far_as_permitted(written: bytes, redirected: bool | None) -> None:
    assert pci.redirects(written) is redirected


def test_the_path_of_a_card_includes_all_bridges_above_it(tmp_path: Path) -> None:
    card = tmp_path / "devices/pci0000:15/0000:15:01.0/0000:16:00.0/0000:1b:00.0"
    (card / "iommu_group").mkdir(parents=True)
    (card / "iommu_group/type").write_text("DMA-FQ\n")
    for bridge, control in ((card.parents[1], 0x1C), (card.parent, 0)):
        (bridge / "config").write_bytes(config((ACS, control)))
    bus = tmp_path / "bus"
    bus.mkdir()
    for folder in (card, card.parent, card.parents[1]):
        (bus / folder.name).symlink_to(folder)
    assert pci.peer_path("0000:1b:00.0", bus) == PeerPath("0000:1b:00.0", "DMA-FQ", ("0000:15:01.0",))


@pytest.mark.parametrize(
    ("links", "count", "answer"),
    [([True, True], 2, True), ([True, False], 2, False), ([], 2, False), ([True], 2, False), ([True] * 6, 3, True)],
)
def test_cards_are_connected_if_each_pair_has_a_link(links: list[bool], count: int, answer: bool) -> None:
    assert peer_path_check.joined(links, count) is answer


TWO_BRIDGES = """
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *up) { if (link > 3) return 2; *up = 1; return 0; }
int nvmlDeviceGetP2PStatus(char *one, char *other, unsigned by, unsigned *status) {
    long apart = one - other;
    if (by != 2) return 2;
    *status = apart == 2 || apart == -2 ? 0 : 5; return 0; }
"""
"""Four cards, 0 bridged with 2 and 1 with 3: NV4 in the matrix of `nvidia-smi topo -m`; 5 is NVML_P2P_STATUS_NOT_SUPPORTED."""


def test_cards_that_are_bridged_two_by_two_are_not_all_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = library(tmp_path, cards=4, more=TWO_BRIDGES)
    assert [card.links for card in read_health(made)] == [(True,) * 4] * 4
    assert nvml.nvlinked(made) == tuple(abs(one - other) == 2 for one in range(4) for other in range(4) if one != other)
    monkeypatch.setattr(nvml, "nvlinked", partial(nvml.nvlinked, made))
    monkeypatch.setattr(pci, "gpus", lambda *_, **__: [Gpu(pci=f"0000:0{place}:00.0") for place in range(4)])
    monkeypatch.setattr(pci, "virtual", lambda: False)
    monkeypatch.setattr(pci, "peer_path", lambda address: PeerPath(address, "DMA-FQ", ()))
    outcome = peer_path_check.peer_paths(CheckContext())
    assert outcome.status == "warn"
    assert outcome.reason == "the IOMMU translates writes between GPUs on 4 of 4 GPUs (DMA-FQ)"


@pytest.mark.parametrize(
    ("chips", "status"), [(("0x13c0", "0x744c"), "skip"), (("0x744c", "0x744c"), "warn")], ids=["graphics", "two"]
)
def test_graphics_of_a_processor_are_no_second_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chips: tuple[str, ...], status: str
) -> None:
    for place, chip in enumerate(chips, 3):
        function(tmp_path, f"0000:0{place}:00.0", "0x1002", "0x030000", chip)
    monkeypatch.setattr(pci, "gpus", partial(pci.gpus, devices=tmp_path))
    monkeypatch.setattr(pci, "virtual", lambda: False)
    monkeypatch.setattr(pci, "peer_path", lambda address: PeerPath(address, "DMA-FQ", ()))
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: None)
    outcome = peer_path_check.peer_paths(CheckContext())
    assert outcome.status == status
    assert (outcome.reason == "there are fewer than two GPUs") == (status == "skip")


@pytest.mark.parametrize(
    ("path", "joined", "status", "words"),
    [
        (PeerPath("0000:1b:00.0", "identity", ()), False, "ok", "neither IOMMU nor ACS"),
        (
            PeerPath("0000:1b:00.0", "DMA-FQ", ()),
            False,
            "warn",
            "the IOMMU translates writes between GPUs on 1 of 2 GPUs",
        ),
        (PeerPath("0000:1b:00.0", "identity", ("0000:15:01.0",)), False, "warn", "to the root: 0000:15:01.0"),
        (PeerPath("0000:1b:00.0", "DMA", ("0000:15:01.0",)), True, "ok", "direct links connect all GPUs"),
        (PeerPath("0000:1b:00.0", None, None), False, "skip", "only root"),
    ],
)
def test_redirected_writes_between_cards_are_reported(path: PeerPath, joined: bool, status: str, words: str) -> None:
    outcome = peer_path_check.evaluate_peer_paths([path, PeerPath("0000:43:00.0", "identity", ())], joined=joined)
    assert (outcome.status, words in outcome.reason) == (status, True), outcome
    assert (outcome.remedy is not None) == (status in ("warn", "skip"))
