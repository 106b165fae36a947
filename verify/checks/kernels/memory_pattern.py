"""kernels.memory_pattern: the device's memory keeps what is written to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from verify.inputs import synchronize
from verify.records import Check, CheckContext, CheckResult, Figure

if TYPE_CHECKING:
    from torch import Tensor

WORDS = 1 << 25
"""Of a chunk, 8 bytes each."""
CPU_WORDS = 1 << 22
"""Of a CPU's memory a sample alone: the kernel decides which pages it is."""
GPU_SHARE = 0.9
"""Of the free memory."""
ASIDE = 4
"""Chunks that the test itself needs: the places, the pattern, and what becomes of them on the way."""
RETENTION_S = 5.0
"""Between writing and reading: some hundred of the refreshes of a GPU's memory (32 ms, JEDEC JESD238). A sample of a CPU's does not wait."""
MULTIPLIER = 6364136223846793005
"""Knuth's, for MMIX: every word's pattern is its place times this one, so a wrong address shows as well."""


def _run(context: CheckContext) -> CheckResult:
    import torch

    device = context.device or "cpu"
    words, count = CPU_WORDS, 1
    if device != "cpu":
        words = WORDS
        count = max(1, int(torch.cuda.mem_get_info(device)[0] * GPU_SHARE) // (8 * words) - ASIDE)
    chunks = [torch.empty(words, dtype=torch.int64, device=device) for _ in range(count)]
    place = torch.arange(words, dtype=torch.int64, device=device)
    wrong = 0
    for inverted in (False, True):
        for number, chunk in enumerate(chunks):
            chunk.copy_(pattern(place, number, inverted=inverted))
        if device != "cpu":
            synchronize(device)
            time.sleep(RETENTION_S)
        if "wrong-result" in context.faults:
            chunks[0][12345] ^= 1 << 17
        for number, chunk in enumerate(chunks):
            wrong += int((chunk != pattern(place, number, inverted=inverted)).sum())
    tested = 8 * words * count
    figures = (
        Figure("bytes tested", tested, "B"),
        Figure("wrong words", wrong, "count", ceiling=0, source="what is written is read again"),
    )
    waited = 0.0 if device == "cpu" else RETENTION_S
    evidence = {"pattern": "place times a constant, and its inverse", "kept for s": waited, **synchronize(device)}
    if wrong:
        text = f"{wrong} words of {tested >> 20} MiB were not read as they were written"
        return CheckResult(
            "fail", text, figures, evidence, "take the device out of service; nvidia-smi -q -d ECC,ROW_REMAPPER"
        )
    text = f"{tested >> 20} MiB keep what is written to them{f' for {waited:g} s' if waited else ''}"
    return CheckResult("ok", text, figures, evidence)


def pattern(place: Tensor, chunk: int, *, inverted: bool) -> Tensor:
    """What stands in each word of a chunk; every bit is once 0 and once 1."""
    words = (place + chunk * place.numel()) * MULTIPLIER
    return ~words if inverted else words


CHECK = Check(
    id="kernels.memory_pattern",
    description="What is written to the device's free memory is read again, every bit both ways; a GPU's after some seconds.",
    run=_run,
    level="full",
    requires=("kernels.vector_add",),
    each_device=True,
    exclusive=True,
    faults=("wrong-result",),
    deadline_s=300.0,
)
