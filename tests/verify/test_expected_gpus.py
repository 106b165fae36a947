"""A host with fewer cards than expected is not green: with seven of eight, the missing card is named."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.phases.plan.cards import server_of
from provision.phases.probe.assemble import parse
from provision.phases.verify import step as verify
from provision.phases.verify.expected_gpus import expected_gpus
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.report import summarise, write
from tests.pipeline.test_verify import context_of, probed_hosts
from tests.report.sample import GPU_STACK, Folder, host
from verify.checks.devices.driver import fewer
from verify.host.views import Gpu

RECORDED = Path(__file__).parents[1] / "probe/recorded"
BEFORE = "20201119T101500Z"


def recorded(name: str) -> HostFacts:
    return parse(name, (RECORDED / f"{name}.txt").read_text())


def addresses(facts: HostFacts) -> list[str]:
    """Return the addresses of the NVIDIA cards; the processor's own graphics are on the bus as well."""
    return [gpu.address for gpu in facts.pci_gpus if gpu.vendor_id == "10de"]


def without_last(facts: HostFacts) -> HostFacts:
    """Return the host after a card fell off its bus."""
    gone = addresses(facts)[-1]
    return facts.model_copy(update={"pci_gpus": tuple(gpu for gpu in facts.pci_gpus if gpu.address != gone)})


def test_a_board_with_nvswitches_has_eight_cards_and_its_last_green_run_names_them() -> None:
    whole = recorded("h100-sxm8").model_copy(update={"product": None})
    board = expected_gpus(without_last(whole), Settings(), "cu130", None, None)
    assert board == {"count": 8, "pci": [], "source": "a board of H100 with NVSwitches holds 8"}
    known = expected_gpus(without_last(whole), Settings(), "cu130", whole, BEFORE)
    assert known
    assert known["count"] == len(known["pci"]) == 8
    assert known["source"] == f"run {BEFORE}, in which the host was last green"


def test_a_server_of_a_known_product_has_the_gpus_of_its_product_in_the_first_run() -> None:
    whole = recorded("h100-sxm8").model_copy(update={"product": "DGXH100"})
    first = expected_gpus(without_last(whole), Settings(), "cu130", None, None)
    assert first == {"count": 8, "pci": [], "source": "DGX H100 or H200: 8 GPUs"}
    none_left = whole.model_copy(update={"pci_gpus": (), "nvidia": None})
    assert (expected_gpus(none_left, Settings(), "cpu", None, None) or {})["count"] == 8
    known = expected_gpus(without_last(whole), Settings(), "cu130", whole, BEFORE)
    assert known
    assert len(known["pci"]) == 8
    rented = whole.model_copy(update={"product": "p5.48xlarge", "virtualization": "amazon"})
    assert (expected_gpus(without_last(rented), Settings(), "cu130", None, None) or {})["count"] == 8
    fewer_on_purpose = Settings(expected_gpus=7)
    assert (expected_gpus(without_last(whole), fewer_on_purpose, "cu130", None, None) or {})["count"] == 7
    assert expected_gpus(whole, Settings(gpus=(0,)), "cu130", None, None) is None


@pytest.mark.parametrize(
    "values",
    [
        {"product": "PowerEdge R750xa"},
        {"product": "DGXA100"},
        {"container": "docker"},
        {"virtualization": "kvm"},
    ],
    ids=["sold with any number", "with other GPUs", "a container may hide some", "a hypervisor too"],
)
def test_a_server_without_a_row_or_with_other_gpus_is_not_judged_by_a_product(values: dict[str, Any]) -> None:
    facts = recorded("h100-sxm8").model_copy(update={"product": "DGXH100", **values})
    assert server_of(facts) is None


def test_the_last_green_run_counts_on_hosts_without_a_board() -> None:
    two = recorded("rtx4070tis-2")
    assert expected_gpus(two, Settings(), "cu130", None, None) is None
    assert (expected_gpus(without_last(two), Settings(), "cu130", two, BEFORE) or {})["count"] == 2


@pytest.mark.parametrize(
    ("settings", "variant", "before", "named"),
    [
        (Settings(expected_gpus=2), "cu130", False, False),
        (Settings(expected_gpus=2), "cu130", True, True),
        (Settings(expected_gpus=4), "cu130", True, False),
        (Settings(expected_gpus=2, gpus=(0,)), "cu130", False, False),
        (Settings(expected_gpus=2), "cpu", False, False),
    ],
    ids=["the first run", "all were there", "more than were ever there", "some GPUs serve", "none was found"],
)
def test_the_inventory_says_how_many_gpus_a_host_has(
    settings: Settings, variant: str, before: bool, named: bool
) -> None:
    whole = recorded("rtx4070tis-2")
    then = (whole, BEFORE) if before else (None, None)
    found = expected_gpus(without_last(whole), settings, variant, *then)
    assert found == {
        "count": settings.expected_gpus,
        "pci": addresses(whole) if named else [],
        "source": "firstlight_expected_gpus",
    }


@pytest.mark.parametrize(
    ("settings", "variant", "values"),
    [
        (Settings(gpus=(0, 1)), "cu130", {}),
        (Settings(), "cpu", {}),
        (Settings(), "cu130", {"virtualization": "kvm"}),
        (Settings(), "rocm7.0", {}),
    ],
    ids=["GPUs are left out", "computes on the CPU", "a virtual machine with some of a board's GPUs", "others' GPUs"],
)
def test_other_hosts_have_no_expected_cards(settings: Settings, variant: str, values: dict[str, Any]) -> None:
    facts = recorded("h100-sxm8").model_copy(update={"product": None, **values})
    assert expected_gpus(facts, settings, variant, None, None) is None


def test_seven_of_eight_cards_fail_with_the_address_of_the_missing_one() -> None:
    here = [Gpu(pci=f"0000:{bus:02x}:00.0") for bus in range(8)]
    expected = {"count": 8, "pci": [gpu.pci for gpu in here], "source": "run A"}
    assert fewer(here, expected) is None
    assert fewer([*here, Gpu(pci="0000:99:00.0")], expected) is None
    outcome = fewer(here[:-1], expected)
    assert outcome
    assert (outcome.status, outcome.reason) == ("fail", "7 of 8 GPUs: missing PCI 0000:07:00.0 (run A)")
    board = fewer(here[:-1], {"count": 8, "pci": [], "source": "the board"})
    assert board
    assert board.reason == "7 of 8 GPUs (the board)"
    by_hand = fewer(here[:-1], 8)
    assert by_hand
    assert by_hand.reason == "7 of 8 GPUs"
    assert fewer(here, None) is None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the checks of each host are asked to expect."""
    found: list[Any] = []

    def run(session: Any, **options: Any) -> Verified:
        found.append(options["expect"])
        return Verified((), {"host": session.host, "checks": [], "status": "ok"})

    monkeypatch.setattr(verify, "run_checks", run)
    return found


def test_a_host_whose_only_gpu_is_missing_fails_in_its_first_run(tmp_path: Path, asked: list[Any]) -> None:
    context = context_of(tmp_path, "a", expected_gpus=1)
    bare = recorded("rtx4070tis-2").model_copy(update={"pci_gpus": (), "nvidia": None})
    verify.check(context, probed_hosts(context, a=bare), context.hosts(), CheckOptions("quick"))
    outcome = fewer((), asked[0]["gpus"])
    assert outcome
    assert (outcome.status, outcome.reason) == ("fail", "0 of 1 GPUs (firstlight_expected_gpus)")


def test_a_server_that_lost_all_gpus_of_its_product_is_asked_for_them(tmp_path: Path, asked: list[Any]) -> None:
    context = context_of(tmp_path, "a")
    bare = recorded("h100-sxm8").model_copy(update={"product": "DGXH100", "pci_gpus": (), "nvidia": None})
    verify.check(context, probed_hosts(context, a=bare), context.hosts(), CheckOptions("quick"))
    assert asked[0]["gpus"] == {"count": 8, "pci": [], "source": "DGX H100 or H200: 8 GPUs"}


def test_a_host_that_never_was_green_is_asked_for_the_gpus_of_its_board(tmp_path: Path, asked: list[Any]) -> None:
    context = context_of(tmp_path, "a")
    fewer_left = without_last(recorded("h100-sxm8").model_copy(update={"product": None}))
    verify.check(context, probed_hosts(context, a=fewer_left), context.hosts(), CheckOptions("quick"))
    assert asked[0]["gpus"] == {"count": 8, "pci": [], "source": "a board of H100 with NVSwitches holds 8"}


def test_the_checks_know_that_a_host_is_a_container(tmp_path: Path, asked: list[Any]) -> None:
    context = context_of(tmp_path, "a")
    within = recorded("h100-sxm8").model_copy(update={"container": "docker"})
    verify.check(context, probed_hosts(context, a=within), context.hosts(), CheckOptions("quick"))
    assert asked[0]["container"] == "docker"


def test_the_checks_of_a_host_get_the_cards_of_its_last_green_run(tmp_path: Path, asked: list[Any]) -> None:
    whole = recorded("rtx4070tis-2")
    green = Folder(tmp_path / "logs" / BEFORE, [host("a")])
    green.green("a", gpus=2)
    green.planned(["a"], GPU_STACK)
    green.run.write("facts/a.json", whole.model_copy(update={"host": "a"}))
    write(green.run, summarise(green.run))
    context = context_of(tmp_path, "a")
    probed = probed_hosts(context, a=without_last(whole))
    verify.check(context, probed, context.hosts(), CheckOptions("quick"))
    assert asked[0]["gpus"]["pci"] == addresses(whole)
