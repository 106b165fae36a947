"""kernels.determinism: bitwise equal results when kernels run again, and on equal devices."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from verify.checks.kernels.gemm import GPU_LARGE
from verify.checks.kernels.memory_pattern import MULTIPLIER
from verify.inputs import corrupt, normal, synchronize
from verify.records import Check, CheckContext, CheckResult, Figure

if TYPE_CHECKING:
    from torch import Tensor

SIZE = CPU_LARGE = 512


def _run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    hashes = [result_hashes(device) for _ in range(2)]
    if "wrong-result" in context.faults:
        last = next(iter(hashes[1]))
        hashes[1][last] = result_hash(corrupt(dict(_results(device))[last]))
    nondeterministic = [name for name in hashes[0] if hashes[0][name] != hashes[1][name]]
    figures = (
        Figure(
            "kernels that differ from call to call",
            len(nondeterministic),
            "count",
            ceiling=0,
            source="deterministic kernels",
        ),
    )
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
    import torch

    return hashlib.sha256(bytes(result.contiguous().view(torch.uint8).flatten().tolist())).hexdigest()[:16]


def _results(device: str) -> Iterator[tuple[str, Tensor]]:
    from torch.nn import functional

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
    import torch

    words = result.flatten().view(torch.int16).long()
    return (words * (torch.arange(words.numel(), device=result.device) * MULTIPLIER + 1)).sum().reshape(1).cpu()


def compare_devices(answers: Mapping[str, Mapping[str, Any]]) -> CheckResult | None:
    """Compare the hashes of equal devices; None if there are no two of them."""
    groups: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for device, answer in answers.items():
        if name := answer["evidence"].get("name"):  # CPUs have no name, and are of many kinds
            groups[name][device] = answer["evidence"]["result_hashes"]
    equal = {name: hashes for name, hashes in groups.items() if len(hashes) > 1}
    if not equal:
        return None
    odd = [
        f"{', '.join(devices)}: {kernel} on {name}"
        for name, hashes in equal.items()
        for kernel in next(iter(hashes.values()))
        if (devices := minority({device: hashes_[kernel] for device, hashes_ in hashes.items()}))
    ]
    figures = (
        Figure("dissenting votes", len(odd), "count", ceiling=0, source="equal devices, the same kernels and numbers"),
    )
    if odd:
        text = f"different bits than equal devices: {'; '.join(odd)}"
        return CheckResult("fail", text, figures, dict(equal), "take the device out of service, and run it again")
    count = sum(map(len, equal.values()))
    return CheckResult("ok", f"{count} devices give the same bits as the equal ones", figures)


def minority(hashes: Mapping[str, str]) -> list[str]:
    """Return the devices that differ from the majority; without a majority, all of them."""
    winner, count = Counter(hashes.values()).most_common(1)[0]
    if 2 * count > len(hashes):
        return [device for device, hash_ in hashes.items() if hash_ != winner]
    return list(hashes)


CHECK = Check(
    id="kernels.determinism",
    description="Kernels give the same bits when they run again, and on every equal device of the host.",
    run=_run,
    level="standard",
    requires=("kernels.vector_add",),
    each_device=True,
    aggregate=compare_devices,
    faults=("wrong-result",),
)
