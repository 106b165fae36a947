"""kernels.memory_pattern: patterns written to the device's memory and read back."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from verify.inputs import synchronize
from verify.records import CheckContext, CheckResult, Figure

WORDS = 1 << 25
"""Words of 8 bytes per chunk."""
CPU_WORDS = 1 << 22
"""Sample size on a CPU; the kernel chooses the pages."""
GPU_SHARE = 0.9
"""Share of the free memory."""
ASIDE = 6
"""Chunks that the test needs itself: positions, pattern, and intermediate results."""
RETENTION_S = 5.0
"""Seconds between write and read: hundreds of refreshes of a GPU's memory (32 ms, JEDEC JESD238). CPUs do not wait."""
BITS = 64
MULTIPLIER = 6364136223846793005
"""Knuth's multiplier for MMIX. The pattern of a word is its position times this, so a wrong address is found as well."""


def run(context: CheckContext) -> CheckResult:
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
    for expected in walking_bits(place):
        for chunk in chunks:
            chunk.copy_(expected)
        wrong += sum(int((chunk != expected).sum()) for chunk in chunks)
    tested = 8 * words * count
    figures = (
        Figure("bytes tested", tested, "B"),
        Figure("wrong words", wrong, "count", ceiling=0, source="what is written is read again"),
    )
    waited = 0.0 if device == "cpu" else RETENTION_S
    evidence = {
        "pattern": "position times a constant, its inverse, and walking bits",
        "kept for s": waited,
        **synchronize(device),
    }
    if wrong:
        text = f"{wrong} words of {tested >> 20} MiB were not read as written"
        remedy = "take the device out of service; nvidia-smi -q -d ECC,ROW_REMAPPER"
        return CheckResult("fail", text, figures, evidence, remedy)
    text = f"{tested >> 20} MiB keep what is written to them{f' for {waited:g} s' if waited else ''}"
    return CheckResult("ok", text, figures, evidence)


def walking_bits(place: Tensor) -> Iterator[Tensor]:
    """Yield contents in which one bit of each word differs from all others, set or cleared; it is another one in each word and each turn."""
    one = torch.ones_like(place)
    for turn in range(BITS):
        words = one << ((place + turn) % BITS)
        yield words
        yield ~words


def pattern(place: Tensor, chunk: int, *, inverted: bool) -> Tensor:
    """Return the content of each word of a chunk; with `inverted`, every bit is flipped."""
    words = (place + chunk * place.numel()) * MULTIPLIER
    return ~words if inverted else words
