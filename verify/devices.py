"""Which devices torch computes on, found without touching one in this process."""

from __future__ import annotations

from verify.isolate import run_one
from verify.records import Context, Outcome
from verify.tables import table
from verify.views import torch_view

SURVEY_DEADLINE_S = 60.0


def survey(context: Context) -> tuple[tuple[str, ...], str | None]:
    """`cuda:0`, `cuda:1` ... or `cpu`, as torch names them (ROCm builds say cuda as well), or why they are not known."""
    planned = (context.stack.get("torch") or {}).get("variant")
    if not torch_view.built_for_gpus():
        return ("cpu",), None
    ending = run_one(torch_view.gpu_count, deadline_s=SURVEY_DEADLINE_S)
    if ending.problem:
        return (), f"torch could not list its devices: {ending.problem}"
    if ending.value:
        return tuple(f"cuda:{index}" for index in range(ending.value)), None
    if planned not in (None, "cpu"):
        return (), f"torch sees no GPU, and the Stack computes on GPUs ({planned})"
    return ("cpu",), None


def busy(device: str) -> Outcome | None:
    """The outcome of a check that measures on a device where others are at work; null where nobody is, and on CPUs.

    Call it in a process of its own: it touches the device.
    """
    if device == "cpu":
        return None
    import torch

    free, total = torch.cuda.mem_get_info(device)
    taken = 1 - free / total
    if taken <= table("devices")["busy"]["memory_share"]:
        return None
    text = f"others hold {taken:.0%} of the device's {total / 2**30:.0f} GiB: what is measured beside their work means nothing"
    return Outcome("skip", text, remedy="stop the service first: ./firstlight stop")
