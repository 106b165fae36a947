"""kernels.determinism: bitwise equal results when kernels run again, and on equal devices."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from verify.checks.kernels.gemm import GPU_LARGE
from verify.checks.kernels.memory_pattern import MULTIPLIER
from verify.inputs import corrupt, normal, synchronize
from verify.records import CheckContext, CheckResult, Figure

SIZE = CPU_LARGE = 512


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    hashes = [result_hashes(device) for _ in range(2)]
    if "wrong-result" in context.faults:
        last = next(iter(hashes[1]))
        hashes[1][last] = result_hash(corrupt(dict(_results(device))[last]))
    nondeterministic = [name for name in hashes[0] if hashes[0][name] != hashes[1][name]]
    name, count = "kernels that differ from call to call", len(nondeterministic)
    figures = (Figure(name, count, "count", ceiling=0, source="deterministic kernels"),)
    evidence = {"result_hashes": hashes[0], **synchronize(device)}
    if nondeterministic:
        text = f"different bits when called again with the same numbers: {', '.join(nondeterministic)}"
        return CheckResult("fail", text, figures, evidence, "run it again; do not trust the device")
    return CheckResult("ok", f"{len(hashes[0])} kernels give the same bits when called again", figures, evidence)


def result_hashes(device: str) -> dict[str, str]:
    """Return the hash of each kernel's result."""
    return {name: result_hash(result) for name, result in _results(device)}


def result_hash(result: Tensor) -> str:
    """Return the hash of the bits of a result."""
    return hashlib.sha256(bytes(result.contiguous().view(torch.uint8).flatten().tolist())).hexdigest()[:16]


def _results(device: str) -> Iterator[tuple[str, Tensor]]:
    values = normal(64, SIZE, seed=51, dtype="bfloat16").to(device)
    weights = normal(SIZE, SIZE, seed=52, dtype="bfloat16").to(device)
    yield "product", (values @ weights).cpu()
    yield "softmax", values.float().softmax(dim=1).cpu()
    yield "norm", functional.layer_norm(values.float(), (SIZE,)).cpu()
    size = CPU_LARGE if device == "cpu" else GPU_LARGE
    left, right = (normal(size, size, seed=seed, dtype="bfloat16").to(device) for seed in (53, 54))
    yield "large product", _checksum(left @ right)
    yield "exponential", values.float().exp().cpu()


def _checksum(result: Tensor) -> Tensor:
    """Return an integer checksum of the bits and positions of a large result, computed on its device; independent of the order."""
    words = result.flatten().view(torch.int16).long()
    return (words * (torch.arange(words.numel(), device=result.device) * MULTIPLIER + 1)).sum().reshape(1).cpu()
