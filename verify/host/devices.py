"""Devices that torch computes on, listed without touching one in this process."""

from dataclasses import replace

from verify.host.control_group import free_memory
from verify.host.views import kernel_driver, torch_view
from verify.records import BUSY, CheckContext, CheckResult
from verify.runner.child_processes import run_one
from verify.tables import table

SURVEY_DEADLINE_S = 60.0


def list_devices(context: CheckContext) -> tuple[tuple[str, ...], str | None]:
    """Return the devices (`cuda:0`, `cuda:1` ... or `cpu`, also `cuda` on ROCm), or why they are unknown.

    If the Stack names the GPUs that it serves on, only those are listed.
    """
    if not torch_view.built_for_gpus():
        return ("cpu",), None
    ending = run_one(torch_view.gpu_count, deadline_s=SURVEY_DEADLINE_S)
    if ending.problem:
        return (), f"torch could not list its devices: {ending.problem}"
    if ending.value:
        serving = set(context.stack.get("gpus") or ()) & set(range(ending.value))
        return tuple(f"cuda:{index}" for index in sorted(serving) or range(ending.value)), None
    if context.variant not in (None, "cpu"):
        return (), f"torch sees no GPU, and the plan computes on GPUs ({context.variant})"
    return ("cpu",), None


def architecture(device: str) -> str:
    """Return `9.0` for an NVIDIA card, `gfx942` for an AMD one."""
    torch = torch_view.load()
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(device).gcnArchName).partition(":")[0]
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def card_name(device: str) -> str:
    """Return the name by which a device has floors: that of an AMD GPU's partition, like that of an NVIDIA GPU's slice, says that it is one."""
    name = device if device == "cpu" else str(torch_view.load().cuda.get_device_name(device))
    at_one_place = [gpu for gpu in kernel_driver.amd_gpus() or () if gpu.pci == torch_view.address(device)]
    return f"{name} partition" if len(at_one_place) > 1 else name


def skip_if_busy(context: CheckContext) -> CheckResult | None:
    """Return a skip if other processes use the device of a measurement, otherwise None.

    On CPUs only this installation's own service counts. Touches the device, so call it in a child process.
    """
    service, limits = context.service, table("devices")["busy"]
    serves = service is not None and service.main_pid is not None
    remedy = "stop the service for the checks: --drain"
    if context.device in (None, "cpu"):
        cores = service.cores(limits["cpu_window_s"]) if service and serves else 0.0
        if service is None or cores <= limits["cpu_cores"]:
            return None
        text = f"{service.name} is running and keeps {cores:.1f} cores busy, {BUSY}"
        return CheckResult("skip", text, remedy=remedy)
    free, total = memory(str(context.device))
    taken = 1 - free / total
    if taken <= limits["memory_share"]:
        return None
    held = f"{taken:.0%} of the device's {total / 2**30:.0f} GiB"
    if service and serves:
        text = f"{service.name} is running and uses {held}, {BUSY}"
        return CheckResult("skip", text, remedy=remedy)
    text = f"other processes use {held}, {BUSY}"
    return CheckResult("skip", text, remedy="end them: nvidia-smi lists them")


def skip_if_any_busy(context: CheckContext) -> CheckResult | None:
    """Return the same for all devices, for a check that covers them all.

    The devices are queried in a child process: such a check forks processes, which could not use them otherwise.
    """

    def ask() -> list[str | None] | None:
        found = (skip_if_busy(replace(context, device=device)) for device in context.devices)
        return next(([outcome.reason, outcome.remedy] for outcome in found if outcome), None)

    ending = run_one(ask, deadline_s=SURVEY_DEADLINE_S)
    if ending.problem:
        return CheckResult("error", f"cannot tell: {ending.problem}")
    return CheckResult("skip", ending.value[0], remedy=ending.value[1]) if ending.value else None


def free_bytes(device: str) -> int:
    """Return the memory in bytes that a measurement may take: of a CPU, what the kernel and the control group leave."""
    return free_memory() if device == "cpu" else memory(device)[0]


def memory(device: str) -> tuple[int, int]:
    """Return free and total bytes of a GPU. Touches the device, so call it in a child process.

    One that shares the memory of its processor (GB10) counts page cache as taken, which the kernel frees when it is wanted.
    """
    cuda = torch_view.load().cuda
    free, total = map(int, cuda.mem_get_info(device))
    if getattr(cuda.get_device_properties(device), "is_integrated", False):
        free = min(total, free_memory())
    return free, total
