"""kernels.memory_pattern: patterns written to the device's memory and read back."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from verify.inputs import synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

WORDS, CPU_WORDS = 1 << 25, 1 << 19
"""Words of 8 bytes per chunk."""
CPU_WAITS_S = 0.2
"""The longest wait on a CPU, whose sample is small; the kernel chooses its pages."""
ASIDE = 6
"""Chunks that the test needs itself: positions, pattern, and intermediate results."""
BITS = 64
MULTIPLIER = 6364136223846793005
"""Knuth's multiplier for MMIX. The pattern of a word is its position times this, so a wrong address is found as well."""
SEED = 57
WEAK_WORD, WEAK_BIT = 345, 1 << 17
"""The cell that injected faults change."""

Words = Callable[[int], Tensor]
"""The words for a chunk, by its number."""


class Memory:
    """Memory under test, in chunks of equal size. Injected faults change what it keeps."""

    def __init__(self, device: str, rule: Mapping[str, float], faults: frozenset[str]) -> None:
        """Allocate a share of the free memory of a GPU, or a sample of a CPU's, by the rule of the level."""
        words, count = CPU_WORDS, int(rule["cpu_chunks"])
        if device != "cpu":
            words, free = WORDS, torch.cuda.mem_get_info(device)[0] // (8 * WORDS)
            count = max(2, min(int(free * rule["share"]), free - ASIDE))
        self.chunks = [torch.empty(words, dtype=torch.int64, device=device) for _ in range(count)]
        self.place = torch.arange(words, dtype=torch.int64, device=device)
        self._device, self._faults = device, faults

    def write(self, number: int, words: Tensor) -> None:
        """Write a chunk."""
        chunk = self.chunks[number]
        chunk.copy_(words)
        if "aliased-address" in self._faults:
            half = chunk.numel() // 2
            chunk[:half] = chunk[half:]
        if "coupled-cells" in self._faults and number + 1 < len(self.chunks):
            self.chunks[number + 1][WEAK_WORD] ^= WEAK_BIT

    def differing(self, number: int, words: Tensor) -> int:
        """Read a chunk, and return how many of its words differ."""
        if "wrong-result" in self._faults and number == 0:
            self.chunks[0][WEAK_WORD] |= WEAK_BIT
        chunk = self.chunks[number]
        return 0 if torch.equal(chunk, words) else int((chunk != words).sum())

    def lose(self, words: Words, *, waits: float = 0.0) -> int:
        """Write all chunks, wait for some seconds, read all chunks, and return how many words differ."""
        numbers = range(len(self.chunks))
        for number in numbers:
            self.write(number, words(number))
        if waits:
            synchronize(self._device)
            time.sleep(waits)
            if "decaying-bit" in self._faults:
                self.chunks[0][WEAK_WORD] ^= WEAK_BIT
        return sum(self.differing(number, words(number)) for number in numbers)


def run(context: CheckContext) -> CheckResult:
    device, rules = context.device or "cpu", table("memory")["pattern"]
    rule = rules.get(context.level, rules["standard"])
    memory = Memory(device, rule, context.faults)
    until = time.monotonic() + rule["seconds"]
    waits = min(rule["waits"], CPU_WAITS_S) if device == "cpu" else rule["waits"]
    both = [partial(pattern, memory.place, inverted=inverted) for inverted in (False, True)]
    wrong = {
        "address": sum(memory.lose(words) for words in both),
        "moving inversions": moving_inversions(memory),
        "random": memory.lose(partial(noise, memory.place)),
        "retention": sum(memory.lose(words, waits=waits) for words in both),
        "walking bits": 0,
    }
    turns = 0
    for bits in walking_bits(memory.place):
        if turns >= 2 and time.monotonic() > until:  # both a bit that is set and one that is cleared, at any speed
            break
        wrong["walking bits"] += memory.lose(same(bits))
        turns += 1
    evidence = {"kept for s": waits, "walking bits": f"{turns} of {2 * BITS} turns", **synchronize(device)}
    return evaluate(wrong, 8 * memory.place.numel() * len(memory.chunks), evidence)


def evaluate(wrong: Mapping[str, int], tested: int, evidence: Mapping[str, Any]) -> CheckResult:
    """Fail if a word of the `tested` bytes was not read as written; `wrong` counts such words by pattern."""
    source = "what is written is read again"
    figures = (
        Figure("bytes tested", tested, "B"),
        *(Figure(f"{name}, wrong words", count, "count", ceiling=0, source=source) for name, count in wrong.items()),
    )
    if found := [f"{name} {count}" for name, count in wrong.items() if count]:
        text = f"words of {tested >> 20} MiB were not read as written: {', '.join(found)}"
        remedy = "take the device out of service; nvidia-smi -q -d ECC,ROW_REMAPPER"
        return CheckResult("fail", text, figures, evidence, remedy)
    text = f"{tested >> 20} MiB keep what is written to them for {evidence['kept for s']:g} s: {', '.join(wrong)}"
    return CheckResult("ok", text, figures, evidence)


def moving_inversions(memory: Memory) -> int:
    """Read and invert the chunks upwards, then downwards, and return the wrong words: a write may change no other chunk."""
    words = memory.place * MULTIPLIER
    wrong = memory.lose(same(words))
    numbers = range(len(memory.chunks))
    for order in (numbers, reversed(numbers)):
        for number in order:
            wrong += memory.differing(number, words)
            memory.write(number, ~words)
        words = ~words
    return wrong + sum(memory.differing(number, words) for number in numbers)


def same(words: Tensor) -> Words:
    """Return the same content for every chunk."""
    return lambda _: words


def noise(place: Tensor, chunk: int) -> Tensor:
    """Return random content of a chunk, the same in every call."""
    torch.manual_seed(SEED + chunk)
    return torch.randint(-(1 << 63), (1 << 63) - 1, place.shape, dtype=torch.int64, device=place.device)


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
