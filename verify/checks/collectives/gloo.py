"""collectives.gloo: gloo collectives between two processes, as vLLM uses them on CPUs."""

import torch.distributed as dist

from verify.operators.collectives import LOOPBACK, evaluate, run_collectives
from verify.records import CheckContext, CheckResult

WORLD = 2
INTERFACE = LOOPBACK


def run(context: CheckContext) -> CheckResult:
    if not dist.is_available() or not dist.is_gloo_available():
        return CheckResult("skip", "this torch is built without gloo")
    answers = run_collectives(["cpu"] * WORLD, backend="gloo", faults=context.faults, interface=INTERFACE)
    remedy = f"check that the loopback interface is up: ip address show {INTERFACE}; a firewall must allow it"
    return evaluate(answers, {"backend": "gloo", "interface": INTERFACE}, remedy)
