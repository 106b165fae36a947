"""kernels.vector_add: an elementwise addition."""

import torch

from verify.inputs import corrupt, normal, synchronize
from verify.records import CheckContext, CheckResult, Figure

ELEMENTS = 1 << 20


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    one, other = (normal(ELEMENTS, seed=seed, dtype="float32") for seed in (1, 2))
    result = one.to(device) + other.to(device)
    done = synchronize(device)
    result = result.cpu()
    if "wrong-result" in context.faults:
        result = corrupt(result)
    # float64 holds the sum of two float32 numbers exactly, so rounding it once gives the only correct result.
    expected = (one.double() + other.double()).float()
    wrong = int((result != expected).sum())
    figures = (
        Figure("elements", ELEMENTS, "count"),
        Figure("wrong elements", wrong, "count", ceiling=0, source="IEEE 754: addition is rounded once"),
    )
    evidence = {"call": "a + b, float32", **done}
    if wrong:
        place = int(torch.nonzero(result != expected)[0])
        text = f"{wrong} of {ELEMENTS} sums are wrong, the first at {place}: {result[place]} for {expected[place]}"
        return CheckResult("fail", text, figures, evidence, remedy="run it again; do not trust the device")
    return CheckResult("ok", f"{ELEMENTS} sums are correct bit for bit", figures, evidence)
