"""Which devices torch computes on, found without touching one in this process."""

from __future__ import annotations

from verify.isolate import run_one
from verify.records import Context
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
