"""devices.torch: torch sees the devices that it shall compute on."""

from __future__ import annotations

from verify.records import Check, CheckContext, CheckResult


def _run(context: CheckContext) -> CheckResult:
    problem = "torch sees no GPU" if "missing-gpu" in context.faults else context.devices_problem
    if problem:
        return CheckResult("fail", problem, remedy="see whether the driver works: nvidia-smi, on AMD cards rocminfo")
    return CheckResult("ok", f"torch computes on {', '.join(context.devices)}")


CHECK = Check(
    id="devices.torch",
    description="torch sees the devices that it shall compute on: GPUs where the Stack says GPUs.",
    run=_run,
    requires=("libraries.torch_build", "devices.driver"),
    faults=("missing-gpu",),
)
