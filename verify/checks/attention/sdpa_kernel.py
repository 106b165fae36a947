"""attention.sdpa_kernel: the kernel that ran is the flash one, by the profiler's account."""

from __future__ import annotations

from collections.abc import Collection

from verify.attention_cases import CASES, flash, plain, without_kernel
from verify.inputs import finish
from verify.records import Check, Context, Outcome
from verify.tables import table


def _run(context: Context) -> Outcome:
    import torch

    device = context.device or "cpu"
    missing = without_kernel(device)
    if missing:
        return missing
    case = CASES[0]
    inputs = [part.to(device) for part in case.inputs("bfloat16")]
    compute = plain if "wrong-kernel" in context.faults else flash
    # The profiler beneath torch.profiler: that one imports torch's compiler, which takes seconds.
    with torch.autograd.profiler.profile(use_device=None if device == "cpu" else "cuda") as profile:
        compute(case, *inputs)
        finish(device)
    return judge([event.key for event in profile.key_averages()], "cpu" if device == "cpu" else "gpu")


def judge(seen: Collection[str], kind: str) -> Outcome:
    """Whether the operators and kernels that the profiler saw are those of flash attention on a `cpu` or `gpu`."""
    names = table("attention")["operators"][kind]
    ran = [name for name in seen if name in names]
    evidence = {"call": "torch.autograd.profiler over one attention", "seen": sorted(seen)}
    if ran:
        return Outcome("ok", f"{ran[0]} ran", evidence=evidence)
    others = [name for name in seen if "attention" in name]
    text = f"the profiler saw none of {', '.join(names)}" + (f", but {', '.join(others)}" if others else "")
    return Outcome("fail", text, evidence=evidence, remedy="see which path torch takes: TORCH_LOGS=+all")


CHECK = Check(
    id="attention.sdpa_kernel",
    proves="The kernel that computes attention on the device is the flash kernel, as the profiler saw it run.",
    run=_run,
    needs=("torch",),
    each_device=True,
    faults=("wrong-kernel",),
)
