"""devices.torch: the devices that torch sees."""

from __future__ import annotations

from verify.records import Check, CheckContext, CheckResult


def _run(context: CheckContext) -> CheckResult:
    problem = "torch sees no GPU" if "missing-gpu" in context.faults else context.devices_problem
    if problem:
        return CheckResult("fail", problem, remedy="check whether the driver works: nvidia-smi, on AMD GPUs rocminfo")
    return CheckResult("ok", f"torch computes on {', '.join(context.devices)}")


CHECK = Check(
    id="devices.torch",
    description="torch sees the planned devices: GPUs if the plan computes on GPUs.",
    run=_run,
    requires=("libraries.torch_build", "devices.driver"),
    faults=("missing-gpu",),
)
