"""The state that cards report: how it is read, and its meaning for a healthy card, a faulty one, and one without values."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.verify.nvml_stand_in import SENSORS, library
from tests.verify.test_devices import function
from verify.checks.devices import driver, host
from verify.checks.devices.cards import evaluate_clocks, evaluate_ecc, evaluate_fabric, evaluate_modes, evaluate_nvlink
from verify.host import card_health
from verify.host.cpu import nodes
from verify.host.views import kernel_driver, nvml, pci
from verify.host.views.nvml import Fabric, Health, NvmlError, read_health
from verify.host.views.pci import Link, link
from verify.records import CheckContext, CheckResult

ONE = Health(
    pci="0000:1b:00.0",
    name="NVIDIA H100 80GB HBM3",
    ecc=(True, True),
    ecc_by_default=True,
    uncorrected=(0, 2),
    remapped=(1, 2),
    remap_pending=False,
    remap_failed=False,
    clock_reasons=0x1,
    power_limit_w=700.0,
    power_default_w=700.0,
    persistence=True,
    compute_mode=0,
    mig=(False, False),
    links=(True,) * 18,
    fabric=Fabric(state=3, status=0, health=0b10_10_10),
)
TWO = replace(ONE, pci="0000:43:00.0")
CONSUMER = Health("0000:01:00.0", "NVIDIA GeForce RTX 4090", clock_reasons=0x4, power_limit_w=450, power_default_w=450)

CALLS = """
int nvmlDeviceGetEccMode(void *h, unsigned *now, unsigned *next) { *now = 1; *next = 0; return 0; }
int nvmlDeviceGetDefaultEccMode(void *h, unsigned *value) { *value = 1; return 0; }
int nvmlDeviceGetTotalEccErrors(void *h, unsigned kind, unsigned since, unsigned long long *count) {
    *count = kind == 1 ? (since == 0 ? 3 : 5000000000ULL) : 77; return 0; }
int nvmlDeviceGetRemappedRows(void *h, unsigned *c, unsigned *u, unsigned *p, unsigned *f) {
    *c = 4; *u = 5; *p = 1; *f = 0; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, unsigned long long *bits) { *bits = 0x48; return 0; }
int nvmlDeviceGetPowerManagementLimit(void *h, unsigned *mw) { *mw = 500000; return 0; }
int nvmlDeviceGetPowerManagementDefaultLimit(void *h, unsigned *mw) { *mw = 700000; return 0; }
int nvmlDeviceGetPersistenceMode(void *h, unsigned *mode) { *mode = 1; return 0; }
int nvmlDeviceGetComputeMode(void *h, unsigned *mode) { *mode = 3; return 0; }
int nvmlDeviceGetNvLinkState(void *h, unsigned link, unsigned *up) { *up = link != 1; return link < 3 ? 0 : 2; }
typedef struct { unsigned version; unsigned char uuid[16]; unsigned status, clique, state, health; } fabric_t;
int nvmlDeviceGetGpuFabricInfoV(void *h, fabric_t *f) {
    if (f->version != 0x02000024) return 25;
    f->status = 0; f->clique = 9; f->state = 3; f->health = 0x11; return 0; }
int nvmlDeviceGetVirtualizationMode(void *h, unsigned *mode) { *mode = 2; return 0; }
int nvmlDeviceGetNvLinkErrorCounter(void *h, unsigned link, unsigned kind, unsigned long long *n) {
    if (link > 2 || kind > 1) return 2;
    *n = kind ? link : 6000000000ULL; return 0; }
"""


def test_every_answer_of_nvml_is_in_its_field(tmp_path: Path) -> None:
    (card,) = read_health(library(tmp_path, mig=0, more=SENSORS + CALLS))
    assert card == Health(
        pci="0000:1b:00.0",
        name="NVIDIA H100 80GB HBM3",
        ecc=(True, False),
        ecc_by_default=True,
        uncorrected=(3, 5_000_000_000),
        remapped=(4, 5),
        remap_pending=True,
        remap_failed=False,
        retirement_pending=None,
        clock_reasons=0x48,
        clock_mhz=1410,
        clock_max_mhz=1980,
        temperature_c=61,
        temperature_max_c=88,
        memory_c=74,
        memory_max_c=97,
        power_w=412.5,
        power_limit_w=500.0,
        power_default_w=700.0,
        persistence=True,
        compute_mode=3,
        mig=(True, False),
        links=(True, False, True),
        link_errors={"replay": 18_000_000_000, "recovery": 3},
        fabric=Fabric(state=3, status=0, health=0x11),
        virtual=True,
    )


def test_unsupported_values_are_none_and_failed_calls_are_an_error(tmp_path: Path) -> None:
    def health(name: str, source: str) -> Health:
        folder = tmp_path / name
        folder.mkdir()
        (card,) = read_health(library(folder, more=source))
        return card

    assert health("plain", "") == Health("0000:1b:00.0", "NVIDIA H100 80GB HBM3")
    mode = "int nvmlDeviceGetEccMode(void *h, unsigned *a, unsigned *b) { return %d; }"
    assert health("forbidden", mode % 4).ecc is None
    no_sensor = "int nvmlDeviceGetFieldValues(void *h, int n, unsigned *f) { f[7] = 3; f[8] = 99; return 0; }"
    assert health("no_sensor", no_sensor).memory_c is None
    with pytest.raises(NvmlError, match=r"nvmlDeviceGetEccMode: Unknown \(15\)"):
        health("lost", mode % 15)
    with pytest.raises(NvmlError, match="cannot be loaded"):
        read_health("libnvidia-ml-that-is-not-here.so.1")


Evaluate = Callable[[Sequence[Health]], CheckResult]

FAULTS: dict[str, tuple[Evaluate, dict[str, Any], str, str]] = {
    "errors": (evaluate_ecc, {"uncorrected": (1, 3)}, "fail", "1 uncorrected errors since the driver was loaded"),
    "no spare row": (evaluate_ecc, {"remap_failed": True}, "fail", "could not be remapped"),
    "remap waits": (evaluate_ecc, {"remap_pending": True}, "warn", "pending remapping"),
    "page waits": (evaluate_ecc, {"retirement_pending": True}, "warn", "pending retirement"),
    "ECC off": (evaluate_ecc, {"ecc": (False, False)}, "warn", "ECC is off, the default is on"),
    "ECC next": (evaluate_ecc, {"ecc": (True, False)}, "warn", "ECC will be off after the next reset"),
    "a link down": (evaluate_nvlink, {"links": (True,) * 17 + (False,)}, "fail", "17 of 18 NVLinks are up (down: 17)"),
    "all links down": (evaluate_nvlink, {"links": ()}, "fail", "0 of 18 NVLinks are up"),
    "hot": (evaluate_clocks, {"clock_reasons": 0x40}, "fail", "too hot (hardware)"),
    "power brake": (evaluate_clocks, {"clock_reasons": 0x80}, "fail", "power brake of the system"),
    "warm": (evaluate_clocks, {"clock_reasons": 0x20}, "warn", "too hot (software)"),
    "capped": (evaluate_clocks, {"power_limit_w": 500.0}, "warn", "is limited to 500 W, the default is 700 W"),
    "prohibited": (evaluate_modes, {"compute_mode": 2}, "fail", "compute mode prohibited"),
    "exclusive": (evaluate_modes, {"compute_mode": 3}, "warn", "exclusive process"),
    "MIG next": (evaluate_modes, {"mig": (False, True)}, "warn", "MIG will be on after the next reset"),
    "fabric late": (evaluate_fabric, {"fabric": Fabric(2, 0, 0)}, "fail", "its fabric is in progress"),
    "fabric broken": (evaluate_fabric, {"fabric": Fabric(3, 999, 0)}, "fail", "NVML status 999"),
    "fabric slow": (evaluate_fabric, {"fabric": Fabric(3, 0, 0b01)}, "warn", "its bandwidth is degraded"),
    "routes": (evaluate_fabric, {"fabric": Fabric(3, 0, 0b01_0000)}, "fail", "its routes are unhealthy"),
    "partition": (evaluate_fabric, {"fabric": Fabric(3, 0, 4 << 8)}, "fail", "configured wrongly"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_faulty_card_is_named_with_its_remedy(fault: str) -> None:
    evaluate, change, status, words = FAULTS[fault]
    ill = replace(ONE, **change)
    outcome = evaluate([TWO, ill])
    assert (outcome.status, words in outcome.reason, ill.pci in outcome.reason) == (status, True, True), outcome
    assert TWO.pci not in outcome.reason
    assert outcome.remedy


@pytest.mark.parametrize("evaluate", [evaluate_ecc, evaluate_nvlink, evaluate_clocks, evaluate_modes, evaluate_fabric])
def test_healthy_cards_and_cards_without_a_feature_are_ok(evaluate: Evaluate) -> None:
    assert evaluate([ONE, TWO]).status == "ok"
    assert evaluate([CONSUMER]).status in ("ok", "skip")


def test_gpus_that_all_take_one_process_cannot_be_checked() -> None:
    exclusive = [replace(card, compute_mode=3) for card in (ONE, TWO)]
    assert evaluate_modes(exclusive).status == evaluate_modes(exclusive[:1]).status == "fail"


def test_a_split_card_uses_no_nvlinks() -> None:
    split = replace(ONE, mig=(True, True), links=(False,) * 18)
    assert evaluate_nvlink([split, TWO]).status == "ok"
    assert evaluate_nvlink([split, replace(split, pci=TWO.pci)]).status == "skip"


def test_a_driver_without_clock_reasons_is_an_error() -> None:
    assert evaluate_clocks([Health("0000:01:00.0", "NVIDIA GeForce RTX 4090")]).status == "error"


def test_clocks_of_a_vgpu_are_those_of_its_hypervisors_host() -> None:
    assert evaluate_clocks([Health("0000:00:10.0", "NVIDIA L40S-24C", virtual=True)]).status == "skip"


def test_power_caps_under_load_and_persistence_mode_are_only_reported() -> None:
    assert "power cap (software)" in evaluate_clocks([CONSUMER]).reason
    lazy = evaluate_modes([replace(ONE, persistence=False)])
    assert (lazy.status, "persistence mode is off on 0000:1b:00.0" in lazy.reason) == ("ok", True)


def test_nvlinks_that_recovered_are_reported_and_checksum_errors_are_evidence() -> None:
    noisy = replace(ONE, link_errors={"replay": 0, "recovery": 0, "CRC of flits": 41})
    assert evaluate_nvlink([noisy, TWO]).status == "ok"
    outcome = evaluate_nvlink([replace(noisy, link_errors={"replay": 3, "recovery": 1}), TWO])
    assert outcome.status == "warn"
    assert "0000:1b:00.0: NVLink errors since the driver was loaded: 1 recovery, 3 replay" in outcome.reason


def test_bridges_are_compared_between_equal_cards() -> None:
    bridged = replace(CONSUMER, name="NVIDIA RTX A6000", links=(True,) * 4)
    half = replace(bridged, pci="0000:02:00.0", links=(True, True, False, False))
    assert evaluate_nvlink([bridged, replace(bridged, pci="0000:02:00.0")]).status == "ok"
    outcome = evaluate_nvlink([bridged, half])
    assert (outcome.status, outcome.reason) == (
        "warn",
        "0000:02:00.0: 2 NVLinks are up, and 4 on an equal GPU (down: 2, 3)",
    )


def test_a_single_card_needs_neither_fabric_nor_links_but_inactive_links_are_a_fault() -> None:
    assert evaluate_fabric([replace(ONE, fabric=Fabric(2, 0, 0))]).status == "ok"
    assert evaluate_nvlink([replace(ONE, links=(False,) * 18)]).status == "skip"
    assert evaluate_nvlink([replace(ONE, links=(True,) * 17 + (False,))]).status == "fail"


def test_cards_in_a_sandbox_without_the_bus_are_known_by_their_device_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pci, "gpus", lambda *_, **__: ())
    (tmp_path / "nvidiactl").touch()
    assert not pci.present("nvidia", tmp_path)
    (tmp_path / "nvidia0").touch()
    assert pci.present("nvidia", tmp_path)
    assert not pci.present("amd", tmp_path)


def test_nvml_gives_the_release_of_a_hidden_module(tmp_path: Path) -> None:
    source = 'int nvmlSystemGetDriverVersion(char *text, unsigned size) { strcpy(text, "580.82.07"); return 0; }'
    assert nvml.release(library(tmp_path, more=source)) == "580.82.07"
    (tmp_path / "without").mkdir()
    assert nvml.release(library(tmp_path / "without", init=9, more=source)) is None


def test_a_host_without_cards_or_with_a_cpu_stack_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pci, "gpus", lambda *_, **__: ())
    assert card_health.skip_without_cards(CheckContext()) == CheckResult("skip", "no NVIDIA GPU on the PCI bus")
    assert card_health.skip_without_cards(CheckContext(), "amd") == CheckResult("skip", "no AMD GPU on the PCI bus")
    monkeypatch.setattr(pci, "gpus", lambda *_, **__: (1,))
    assert card_health.skip_without_cards(CheckContext()) is None
    planned = CheckContext(expect={"stack": {"torch": {"variant": "cpu"}}})
    assert card_health.skip_without_cards(planned) == CheckResult("skip", "the plan computes on the CPU")


def test_graphics_of_a_processor_beside_nvidia_gpus_are_no_amd_gpus_to_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their driver makes /dev/kfd too. They serve with a build for ROCm."""
    function(tmp_path / "bus", "0000:0e:00.0", "0x1002", "0x030000", "0x164e", driver="amdgpu")
    (tmp_path / "kfd").touch()
    monkeypatch.setattr(pci, "gpus", partial(pci.gpus, devices=tmp_path / "bus"))
    monkeypatch.setattr(pci, "present", partial(pci.present, nodes=tmp_path))
    for variant, skipped in (("cu130", CheckResult("skip", "no AMD GPU on the PCI bus")), ("rocm7.2", None)):
        context = CheckContext(expect={"stack": {"torch": {"variant": variant}}})
        assert card_health.skip_without_cards(context, "amd") == skipped


MODULE = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07  Release Build  (dvs-builder@U22)\nGCC version: 12\n"
OLD_MODULE = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n"


def test_the_release_of_the_kernel_module_is_read(tmp_path: Path) -> None:
    assert kernel_driver.release(tmp_path) is None
    for text, release in ((MODULE, "580.82.07"), (OLD_MODULE, "535.183.01")):
        (tmp_path / "version").write_text(text)
        assert kernel_driver.release(tmp_path) == release


LIB = "/usr/lib/x86_64-linux-gnu"


@pytest.mark.parametrize(
    ("kernel", "libraries", "missing", "status", "words"),
    [
        (
            "580.82.07",
            {"libcuda": "so.580.82.07", "libnvidia-ml": "so.580.82.07"},
            {},
            "ok",
            "of the same release: libcuda",
        ),
        ("580.82.07", {"libcuda": "so.580.95.05"}, {}, "fail", "is of 580.95.05"),
        (None, {"libcuda": "so.580.82.07"}, {}, "fail", "no NVIDIA kernel module"),
        ("580.82.07", {}, {"libcuda": "libcuda.so.1: cannot open"}, "fail", "libcuda: libcuda.so.1: cannot open"),
        ("580.82.07", {"libcuda": "so.1"}, {}, "ok", "no library names its release"),
    ],
)
def test_libraries_of_another_release_than_the_module_fail(
    kernel: str | None, libraries: dict[str, str], missing: dict[str, str], status: str, words: str
) -> None:
    outcome = driver.evaluate_driver(
        kernel, {name: Path(f"{LIB}/{name}.{end}") for name, end in libraries.items()}, missing
    )
    assert (outcome.status, words in outcome.reason) == (status, True), outcome.reason


def test_a_forward_compatible_libcuda_may_have_another_release() -> None:
    found = {"libcuda": Path("/usr/local/cuda-13.0/compat/libcuda.so.580.65.06")}
    assert driver.evaluate_driver("535.183.01", found, {}).status == "ok"


def sysfs(folder: Path, **values: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in values.items():
        (folder / name).write_text(f"{text}\n")


def test_the_link_is_limited_by_card_and_slot(tmp_path: Path) -> None:
    slot, card = tmp_path / "pci0000:16" / "0000:16:01.0", tmp_path / "pci0000:16" / "0000:16:01.0" / "0000:1b:00.0"
    sysfs(slot, max_link_speed="16.0 GT/s PCIe", max_link_width="8")
    sysfs(
        card,
        max_link_speed="32.0 GT/s PCIe",
        max_link_width="16",
        current_link_speed="2.5 GT/s PCIe",
        current_link_width="8",
    )
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "0000:1b:00.0").symlink_to(card)
    assert link("0000:1b:00.0", tmp_path / "devices") == Link(2.5, 16.0, 8, 8)
    sysfs(card, current_link_speed="Unknown", current_link_width="255")
    assert link("0000:1b:00.0", tmp_path / "devices") == Link(None, 16.0, None, 8)
    assert link("0000:43:00.0", tmp_path / "devices") == Link(None, None, None, None)


def test_the_link_of_a_radeon_is_that_of_its_switch_to_the_slot(tmp_path: Path) -> None:
    folder = tmp_path / "pci0000:00"
    for name, vendor, most, now in (
        ("0000:00:01.1", "0x1022", ("16.0 GT/s PCIe", "8"), ("16.0 GT/s PCIe", "8")),  # the root port
        ("0000:01:00.0", "0x1002", ("32.0 GT/s PCIe", "16"), ("16.0 GT/s PCIe", "8")),
        ("0000:02:00.0", "0x1002", ("32.0 GT/s PCIe", "16"), ("32.0 GT/s PCIe", "16")),
        ("0000:03:00.0", "0x1002", ("32.0 GT/s PCIe", "16"), ("32.0 GT/s PCIe", "16")),
    ):
        folder = folder / name
        limits = {"max_link_speed": most[0], "max_link_width": most[1]}
        sysfs(folder, vendor=vendor, current_link_speed=now[0], current_link_width=now[1], **limits)
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / folder.name).symlink_to(folder)
    assert link(folder.name, tmp_path / "devices") == Link(16.0, 16.0, 8, 8)


@pytest.mark.parametrize(
    ("seen", "status", "words"),
    [
        (Link(32.0, 32.0, 16, 16), "ok", "has 16 lanes of 32 GT/s"),
        (Link(32.0, None, 16, None), "ok", "has 16 lanes"),
        (Link(32.0, 32.0, 4, 16), "warn", "4 of 16 lanes"),
        (Link(8.0, 16.0, 16, 16), "warn", "8 of 16 GT/s under load"),
        (Link(None, None, None, None), "skip", "does not report the link"),
    ],
)
def test_a_narrow_or_slow_link_is_a_warning(seen: Link, status: str, words: str) -> None:
    outcome = host.evaluate_pcie("0000:1b:00.0", seen)
    assert (outcome.status, words in outcome.reason) == (status, True), outcome.reason


def test_numa_nodes_are_read_from_the_kernels_lists(tmp_path: Path) -> None:
    assert nodes(tmp_path) == {}
    for number, cpus in ((0, "0-3,8-11"), (1, "4-7"), (2, "")):
        sysfs(tmp_path / f"node{number}", cpulist=cpus)
    assert nodes(tmp_path) == {0: {0, 1, 2, 3, 8, 9, 10, 11}, 1: {4, 5, 6, 7}, 2: set()}
