"""collectives.gloo: two processes of this host exchange numbers by gloo, which is how vLLM's processes meet on CPUs."""

from __future__ import annotations

from verify.collectives import LOOPBACK, evaluate, run_collectives
from verify.records import Check, CheckContext, CheckResult

WORLD = 2
INTERFACE = LOOPBACK


def _run(context: CheckContext) -> CheckResult:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_gloo_available():
        return CheckResult("skip", "this torch is built without gloo")
    answers = run_collectives(["cpu"] * WORLD, backend="gloo", faults=context.faults, interface=INTERFACE)
    remedy = f"is the loopback up? ip address show {INTERFACE}; a firewall must let it pass"
    return evaluate(answers, {"backend": "gloo", "interface": INTERFACE}, remedy)


CHECK = Check(
    id="collectives.gloo",
    description="Two processes of this host reduce, gather and scatter numbers by gloo, exact to the last one.",
    run=_run,
    level="standard",
    requires=("libraries.torch_build",),
    faults=("wrong-result",),
)
