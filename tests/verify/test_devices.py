"""How each layer's view of the GPUs is read, and the meaning of agreement and difference."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.verify.nvml_stand_in import UUID, library
from verify.checks.devices import driver as gpus
from verify.host import cpu as host_cpu
from verify.host import devices as survey
from verify.host.cpu import cpu_flags
from verify.host.views import Gpu, amd_smi, kernel_driver, nvml, pci, pci_address, torch_view
from verify.operators.speed import speed_floor
from verify.records import CheckContext
from verify.runner.child_processes import ChildResult

UUIDS = (UUID, "GPU-51d9b7a2-93c4-4f7b-8a55-20f6f0c3bb02")
ADDRESSES = ("0000:1b:00.0", "0000:43:00.0")


@pytest.mark.parametrize("written", ["0000:1b:00.0", "00000000:1B:00.0", "0000:1B:00.0\n", "00000000:1b:00.0"])
def test_every_spelling_of_an_address_is_the_same_address(written: str) -> None:
    assert pci_address(written) == "0000:1b:00.0"


def function(bus: Path, address: str, vendor: str, kind: str, device: str = "0x0000", *, driver: str = "") -> None:
    """Write one PCI function as sysfs shows it."""
    folder = bus / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")
    (folder / "device").write_text(f"{device}\n")
    if driver:
        (folder / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")


def test_gpus_that_belong_to_others_than_the_vendors_driver_are_left_out(tmp_path: Path) -> None:
    function(tmp_path, ADDRESSES[0], "0x10de", "0x030200", "0x2330", driver="nvidia")
    function(tmp_path, "0000:2b:00.0", "0x10de", "0x030200", "0x2330", driver="vfio-pci")  # passed to a virtual machine
    function(tmp_path, "0000:3b:00.0", "0x10de", "0x030000", "0x1b80")  # a GTX 1080, which the open module leaves out
    function(tmp_path, ADDRESSES[1], "0x10de", "0x030200", "0x2330")  # one that the driver should have
    assert [gpu.pci for gpu in pci.gpus("nvidia", tmp_path)] == list(ADDRESSES)


def test_gpus_of_any_age_are_there_while_no_driver_is_loaded(tmp_path: Path) -> None:
    function(tmp_path, ADDRESSES[0], "0x10de", "0x030200", "0x1db6")
    assert [gpu.pci for gpu in pci.gpus("nvidia", tmp_path)] == [ADDRESSES[0]]


def test_the_bus_gives_gpus_and_no_other_devices(tmp_path: Path) -> None:
    function(tmp_path, "0000:43:00.0", "0x10de", "0x030200", "0x2330")  # an H100 is a 3D controller
    function(tmp_path, "0000:1b:00.0", "0x10de", "0x030000", "0x2684")  # a graphics card with a display output
    function(tmp_path, "0000:1b:00.1", "0x10de", "0x040300")  # its audio function
    function(tmp_path, "0000:c0:00.0", "0x10de", "0x068000")  # an NVSwitch bridge
    function(tmp_path, "0000:05:00.0", "0x1a03", "0x030000")  # the board's own graphics
    function(tmp_path, "0000:83:00.0", "0x1002", "0x120000")  # an Instinct
    assert [gpu.pci for gpu in pci.gpus("nvidia", tmp_path)] == list(ADDRESSES)
    assert [gpu.pci for gpu in pci.gpus("amd", tmp_path)] == ["0000:83:00.0"]
    assert pci.gpus("nvidia", tmp_path / "absent") == ()
    function(
        tmp_path, "0000:02:00.0", "0x10de", "0x030000", "0x128b"
    )  # a GT 710 for the screen, which today's drivers leave out
    assert [gpu.pci for gpu in pci.gpus("nvidia", tmp_path, integrated=False)] == list(ADDRESSES)


def test_graphics_of_a_processor_are_no_reason_to_compute_on_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_bus = pci.gpus
    function(tmp_path, "0000:0e:00.0", "0x1002", "0x030000", "0x13c0")  # those of a Ryzen 9000
    assert (len(on_bus("amd", tmp_path)), on_bus("amd", tmp_path, integrated=False)) == (1, ())
    monkeypatch.setattr(pci, "gpus", lambda vendor, **how: on_bus(vendor, tmp_path, **how))
    monkeypatch.setattr(torch_view, "load", lambda: SimpleNamespace(version=SimpleNamespace(hip=None, cuda=None)))
    on_cpu = CheckContext(expect={"stack": {"torch": {"variant": "cpu"}}})
    assert gpus.gpus(on_cpu).status == "ok"
    function(tmp_path, "0000:83:00.0", "0x1002", "0x120000", "0x74a1")  # an MI300X
    assert gpus.gpus(on_cpu).status == "warn"


INFORMATION = """\
Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 381
GPU UUID: \t {uuid}
Video BIOS: \t 96.00.89.00.01
Bus Type: \t PCIe
DMA Size: \t 52 bits
DMA Mask: \t 0xfffffffffffff
Bus Location: \t {address}
Device Minor: \t 0
GPU Firmware: \t 580.82.07
GPU Excluded:\t No
"""


def test_the_kernel_driver_lists_its_gpus(tmp_path: Path) -> None:
    assert kernel_driver.gpus(tmp_path) is None
    (tmp_path / "version").write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.82.07\n")
    assert kernel_driver.gpus(tmp_path) == ()
    never_used = "GPU-????????-????-????-????-????????????"
    for address, uuid in zip(ADDRESSES, (UUIDS[0], never_used), strict=True):
        (tmp_path / "gpus" / address).mkdir(parents=True)
        (tmp_path / "gpus" / address / "information").write_text(INFORMATION.format(address=address, uuid=uuid))
    assert kernel_driver.gpus(tmp_path) == (
        Gpu(ADDRESSES[0], UUIDS[0], "NVIDIA H100 80GB HBM3"),
        Gpu(ADDRESSES[1], None, "NVIDIA H100 80GB HBM3"),
    )


def test_nvml_is_called_with_its_own_structures_and_reports_a_split_gpu(tmp_path: Path) -> None:
    one = Gpu(ADDRESSES[0], UUIDS[0], "NVIDIA H100 80GB HBM3", 80 * 2**30)
    assert nvml.gpus(library(tmp_path)) == ((one,), False)
    (tmp_path / "split").mkdir()
    assert nvml.gpus(library(tmp_path / "split", mig=0)) == ((one,), True)


def test_a_gpu_without_memory_of_its_own_is_listed_without_memory(tmp_path: Path) -> None:
    """A GB10 uses the host's: NVML does not support the call."""
    gpus, _ = nvml.gpus(library(tmp_path, memory=3)) or ((), False)
    assert [(gpu.pci, gpu.memory) for gpu in gpus] == [(ADDRESSES[0], None)]


def test_an_error_of_nvml_has_its_own_text(tmp_path: Path) -> None:
    with pytest.raises(nvml.NvmlError, match=r"nvmlInit_v2: Driver/library version mismatch \(18\)"):
        nvml.gpus(library(tmp_path, init=18))


def test_a_host_without_nvml_is_reported() -> None:
    assert nvml.gpus("libnvidia-ml-that-is-not-here.so.1") is None


BUS = tuple(Gpu(pci=address) for address in ADDRESSES)
FULL = tuple(Gpu(address, uuid, "H100", 80 * 2**30) for address, uuid in zip(ADDRESSES, UUIDS, strict=True))
HEALTHY: dict[str, tuple[Gpu, ...] | None] = {
    "PCI": BUS,
    "kernel driver": tuple(replace(gpu, memory=None) for gpu in FULL),
    "NVML": FULL,
    "torch": tuple(replace(gpu, memory=79 * 2**30) for gpu in FULL),
}


def evaluated(
    *,
    masks: dict[str, str] | None = None,
    variant: str | None = "cu130",
    split: bool = False,
    **views: tuple[Gpu, ...] | None,
) -> tuple[str, str]:
    changed = {**HEALTHY, **{name.replace("_", " "): view for name, view in views.items()}}
    outcome = gpus.evaluate_gpus(changed, variant=variant, masks=masks or {}, split=split)
    return outcome.status, outcome.reason


def test_equal_views_of_all_layers_are_ok() -> None:
    assert evaluated() == ("ok", "every layer sees the same GPUs (PCI 2, kernel driver 2, NVML 2, torch 2)")


def test_a_gpu_that_the_driver_lost_is_named() -> None:
    status, reason = evaluated(kernel_driver=FULL[:1], NVML=FULL[:1], torch=FULL[:1])
    assert status == "fail"
    assert f"not seen by kernel driver: {ADDRESSES[1]}" in reason


def test_a_sandbox_that_hides_the_bus_is_evaluated_by_the_libraries() -> None:
    assert evaluated(PCI=(), kernel_driver=None) == (
        "ok",
        "every layer sees the same GPUs (PCI 0, kernel driver absent, NVML 2, torch 2)",
    )
    status, reason = evaluated(PCI=(), kernel_driver=None, NVML=FULL[:1])
    assert (status, reason) == (
        "fail",
        f"the layers have different counts: PCI 0, kernel driver absent, NVML 1, torch 2; not seen by NVML: {ADDRESSES[1]}",
    )


def test_no_driver_with_gpus_on_the_bus_fails() -> None:
    status, reason = evaluated(kernel_driver=None, NVML=None, torch=())
    assert status == "fail"
    assert reason.startswith("kernel driver and NVML: no answer, with 2 GPUs on the bus")


def test_a_cpu_build_on_a_gpu_host_fails_unless_it_was_planned() -> None:
    assert evaluated(torch=None)[0] == "fail"
    assert evaluated(torch=None, variant=None)[0] == "fail"
    assert evaluated(torch=None, variant="cpu")[0] == "warn"
    assert evaluated(PCI=(), kernel_driver=None, NVML=None, torch=None, variant="cpu")[0] == "ok"
    assert evaluated(PCI=(), kernel_driver=None, NVML=None, torch=None)[0] == "fail"


def test_hidden_gpus_are_a_warning_that_names_the_variable() -> None:
    status, reason = evaluated(torch=FULL[:1], masks={"CUDA_VISIBLE_DEVICES": "0"})
    assert status == "warn"
    assert "CUDA_VISIBLE_DEVICES=0 hides GPUs" in reason


@pytest.mark.parametrize(
    ("masks", "nvml", "status"),
    [
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, 1, "fail"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, 1, "fail"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2, "fail"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, 2, "warn"),
        ({"NVIDIA_VISIBLE_DEVICES": "0"}, 1, "warn"),
        ({"NVIDIA_VISIBLE_DEVICES": "0"}, 2, "fail"),
        ({"container": "docker"}, 1, "warn"),
        ({"container": "docker"}, 2, "fail"),
    ],
)
def test_a_gpu_is_hidden_only_by_what_leaves_it_out(masks: dict[str, str], nvml: int, status: str) -> None:
    """A container shows the bus of the whole machine; torch sees one of its two GPUs."""
    assert evaluated(kernel_driver=FULL[:nvml], NVML=FULL[:nvml], torch=FULL[:1], masks=masks)[0] == status


def test_another_gpu_with_the_same_index_fails() -> None:
    stranger = replace(FULL[1], uuid="GPU-ffffffff-0000-0000-0000-000000000000")
    status, reason = evaluated(torch=(FULL[0], stranger))
    assert status == "fail"
    assert "by uuid" in reason
    assert stranger.uuid
    assert stranger.uuid in reason


def test_lost_memory_fails() -> None:
    status, reason = evaluated(torch=(FULL[0], replace(FULL[1], memory=40 * 2**30)))
    assert status == "fail"
    assert f"torch sees 40.0 GiB of {UUIDS[1]}, NVML 80.0 GiB" in reason


def test_another_order_than_on_the_bus_is_a_warning() -> None:
    assert evaluated(torch=(FULL[1], FULL[0]))[0] == "warn"


def test_split_gpus_are_compared_as_cards() -> None:
    parts = (*FULL, *FULL)
    assert evaluated(split=True, torch=parts) == (
        "ok",
        "every layer sees the same GPUs; one is split (MIG, partitions), and its parts are not compared (PCI 2, kernel driver 2, NVML 2, torch 4)",
    )
    status, reason = evaluated(split=True, torch=parts, kernel_driver=FULL[:1], NVML=FULL[:1])
    assert (status, f"not seen by kernel driver: {ADDRESSES[1]}" in reason) == ("fail", True)
    assert evaluated(split=True, NVML=FULL[:1], masks={"container": "docker"})[0] == "ok"


def test_a_torch_too_old_to_name_its_gpus_is_compared_by_count() -> None:
    assert evaluated(torch=tuple(Gpu(name="H100", memory=gpu.memory) for gpu in FULL))[0] == "ok"


def test_the_flags_of_the_first_cpu_are_read() -> None:
    assert cpu_flags("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: fpu\n") == {
        "fpu",
        "avx2",
        "fma",
    }
    assert cpu_flags("processor\t: 0\nFeatures\t: fp asimd\n") == frozenset()


@pytest.mark.parametrize(
    ("flags", "largest"),
    [
        ({"avx2", "fma"}, 64),
        ({"avx2", "avx_vnni"}, None),
        ({"avx512f"}, 64),
        ({"avx512f", "avx512_vnni"}, None),
        (set(), None),
    ],
)
def test_int8_products_are_exact_for_all_weights_only_with_vnni(
    monkeypatch: pytest.MonkeyPatch, flags: set[str], largest: int | None
) -> None:
    monkeypatch.setattr(host_cpu, "cpu_flags", lambda _: frozenset(flags))
    assert host_cpu.largest_int8_weight() == largest


@pytest.mark.parametrize(
    ("vllm", "found"),
    [("cpu", (("cpu",), None)), ("cu130", ((), "torch sees no GPU, and the plan computes on GPUs (cu130)"))],
)
def test_the_platform_of_vllm_decides_if_a_cuda_build_of_torch_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, vllm: str, found: tuple[tuple[str, ...], str | None]
) -> None:
    monkeypatch.setattr(torch_view, "built_for_gpus", lambda: True)
    monkeypatch.setattr(survey, "run_one", lambda *_, **__: ChildResult(value=0, problem=None, output="", seconds=0.1))
    stack = {"vllm": {"variant": vllm}, "torch": {"variant": "cu130"}}
    assert survey.list_devices(CheckContext(expect={"stack": stack})) == found


def node(nodes: Path, number: int, properties: str) -> None:
    """One node of amdgpu's topology."""
    (nodes / str(number)).mkdir(parents=True)
    (nodes / str(number) / "properties").write_text(properties)


def test_amdgpu_lists_its_gpus_and_not_the_processors(tmp_path: Path) -> None:
    assert kernel_driver.amd_gpus(tmp_path / "absent") is None
    node(tmp_path, 0, "cpu_cores_count 96\nsimd_count 0\nlocation_id 0\ndomain 0\n")
    node(tmp_path, 10, "simd_count 1216\nlocation_id 17152\ndomain 0\n")
    node(tmp_path, 2, "simd_count 1216\nlocation_id 6912\ndomain 0\n")
    (tmp_path / "3" / "properties").mkdir(parents=True)  # cannot be read, as that of a GPU of another container
    assert [gpu.pci for gpu in kernel_driver.amd_gpus(tmp_path) or ()] == list(ADDRESSES)


def test_partitions_of_an_amd_gpu_have_its_address_and_no_floors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, place in enumerate((6912, 6913, 17152, 17152 | 1 << 28, 49408)):
        node(tmp_path, number, f"simd_count 152\nlocation_id {place}\ndomain 0\n")
    found = kernel_driver.amd_gpus(tmp_path) or ()
    assert [gpu.pci for gpu in found] == [*ADDRESSES[:1] * 2, *ADDRESSES[1:] * 2, "0000:c1:00.0"]
    cuda = SimpleNamespace(get_device_name=lambda _: "AMD Instinct MI300X")
    monkeypatch.setattr(torch_view, "load", lambda: SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(kernel_driver, "amd_gpus", lambda: found)
    monkeypatch.setattr(torch_view, "address", lambda device: found[int(device[-1])].pci)
    floors = [speed_floor(survey.card_name(f"cuda:{number}"), "memory")[0] for number in range(5)]
    assert [floor is None for floor in floors] == [True, True, True, True, False]


AMD_SMI_LIST = """[
    {"gpu": 0, "bdf": "0000:1b:00.0", "uuid": "b1ff74a1-0000-1000-8031-7e5d2b9c0a44", "kfd_id": 51205, "node_id": 2, "partition_id": 0},
    {"gpu": 1, "bdf": "0000:43:00.0", "uuid": "6eff74a1-0000-1000-80d5-2f4c81aa7b02", "kfd_id": 2749, "node_id": 3, "partition_id": 0}
]"""


def test_four_views_of_amd_gpus_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = amd_smi.GPUS.parse(AMD_SMI_LIST)
    assert [gpu.pci for gpu in cards] == list(ADDRESSES)
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: cards)
    for driver, seen, split in ((cards, "ok", False), (cards[:1], "fail", False), ((*cards, cards[1]), "ok", True)):
        monkeypatch.setattr(kernel_driver, "amd_gpus", lambda found=driver: found)
        views, parts = gpus.amd_views()
        outcome = gpus.evaluate_gpus({"PCI": cards, **views, "torch": cards}, variant="rocm7.0", masks={}, split=parts)
        assert (outcome.status, parts) == (seen, split), outcome
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: None)
    assert "amd-smi" not in gpus.amd_views()[0]
