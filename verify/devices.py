"""Which devices torch computes on, found without touching one in this process."""

from __future__ import annotations

from dataclasses import replace

from verify.child_processes import run_one
from verify.records import CheckContext, CheckResult
from verify.tables import table
from verify.views import torch_view

SURVEY_DEADLINE_S = 60.0


def list_devices(context: CheckContext) -> tuple[tuple[str, ...], str | None]:
    """`cuda:0`, `cuda:1` ... or `cpu`, as torch names them (ROCm builds say cuda as well), or why they are not known.

    Of GPUs those that the Stack serves on, where it says which: what is not planned for the others proves nothing.
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
        return (), f"torch sees no GPU, and the Stack computes on GPUs ({context.variant})"
    return ("cpu",), None


def skip_if_busy(context: CheckContext) -> CheckResult | None:
    """The outcome of a check that measures on a device where others are at work; null where nobody is.

    Of CPUs only this installation's own service is asked for. Call it in a process of its own: it touches the device.
    """
    service, limits = context.service, table("devices")["busy"]
    serves = service is not None and service.main_pid is not None
    remedy = "let it be stopped for the checks: --drain"
    if context.device in (None, "cpu"):
        cores = service.cores(limits["cpu_window_s"]) if service and serves else 0.0
        if service is None or cores <= limits["cpu_cores"]:
            return None
        text = f"{service.name} serves here and keeps {cores:.1f} cores busy: what is measured beside it means nothing"
        return CheckResult("skip", text, remedy=remedy)
    free, total = memory(str(context.device))
    taken = 1 - free / total
    if taken <= limits["memory_share"]:
        return None
    held = f"{taken:.0%} of the device's {total / 2**30:.0f} GiB"
    if service and serves:
        text = f"{service.name} serves here, and {held} are taken: what is measured beside it means nothing"
        return CheckResult("skip", text, remedy=remedy)
    text = f"others hold {held}: what is measured beside their work means nothing"
    return CheckResult("skip", text, remedy="end what runs there: nvidia-smi names it")


def skip_if_any_busy(context: CheckContext) -> CheckResult | None:
    """The same of every device, for a check that works on all of them.

    They are touched in a process apart: such a check makes processes of its own, which could use no device after that.
    """

    def ask() -> list[str | None] | None:
        found = (skip_if_busy(replace(context, device=device)) for device in context.devices)
        return next(([outcome.reason, outcome.remedy] for outcome in found if outcome), None)

    ending = run_one(ask, deadline_s=SURVEY_DEADLINE_S)
    if ending.problem:
        return CheckResult("error", f"cannot tell: {ending.problem}")
    return CheckResult("skip", ending.value[0], remedy=ending.value[1]) if ending.value else None


def memory(device: str) -> tuple[int, int]:
    """Free and total bytes of a GPU. Call it in a process of its own: it touches the device."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return int(free), int(total)
