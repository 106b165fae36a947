"""devices.torch: the devices that torch sees."""

from verify.records import CheckContext, CheckResult


def run(context: CheckContext) -> CheckResult:
    problem = "torch sees no GPU" if "missing-gpu" in context.faults else context.devices_problem
    if problem:
        return CheckResult("fail", problem, remedy="check whether the driver works: nvidia-smi, on AMD GPUs rocminfo")
    return CheckResult("ok", f"torch computes on {', '.join(context.devices)}")
