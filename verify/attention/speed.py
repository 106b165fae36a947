"""Time and memory of attention: torch's flash path and its standard one on the same inputs, in the same precision."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from verify.host.devices import free_bytes
from verify.inputs import LEAST_RUNS, WARM_UP, compute_in_input_precision, random_sets, rotation, timed
from verify.records import Level
from verify.tables import table

BUDGET_S = 0.2
"""Time for one median at a fixed point."""
SWEEP_BUDGET_S = 0.01
"""Time for one median of a sweep."""
CPU_SWEEP_SETS = 2
"""Sets of inputs in a sweep on a CPU: drawing more random numbers would take longer than the measurement."""
COPIES = {False: 3, True: 6}
"""Score matrices that standard attention holds at once on a CPU, without and with a backward pass, rounded up."""
SHARE = 0.25
"""Share of the free memory that one measurement may need."""
GROWTH = 4
"""Twice the length takes four times the work."""
PROFILES = 3
"""torch's profiler may return no allocation of a short piece of work (seen once in three runs of the tests, torch 2.13.0): then it is done again."""

Point = Sequence[int]
"""Batch, length, heads, head dimension."""


@dataclass(frozen=True)
class SweepRow:
    """Median seconds at one point; `standard` is None if its scores do not fit into the free memory."""

    point: Point
    causal: bool
    backward: bool
    flash: float
    standard: float | None

    @property
    def length(self) -> int:
        return self.point[1]

    @property
    def dim(self) -> int:
        return self.point[3]


def dtype_of(device: str) -> str:
    """Return the precision in which both paths compute: 16 bits on cards; CPUs compute standard attention in 32 bits anyway."""
    return "float32" if device == "cpu" else "float16"


def measure(
    point: Point,
    device: str,
    *,
    causal: bool = False,
    backward: bool = False,
    budget_s: float = BUDGET_S,
    most_sets: int | None = None,
) -> dict[str, float]:
    """Return median seconds of `flash` and `standard` attention; of the first alone if there is no memory for all scores.

    With `causal` a query sees earlier keys only, with `backward` the backward pass is timed too. `budget_s` is for one median,
    `most_sets` limits the sets of inputs; None for as many as no cache holds.
    """
    batch, length, heads, dim = point
    shape, dtype = (batch, heads, length, dim), dtype_of(device)
    enough = rotation(device, 3 * getattr(torch, dtype).itemsize * math.prod(shape))
    count = min(enough, most_sets or enough)
    sets = random_sets(count, *shape, dtype=dtype, device=device, parts=3)
    seconds = {}

    def forward(turn: int) -> Tensor:
        with torch.no_grad():  # the inputs may require gradients, but nothing is stored for a backward pass here
            return functional.scaled_dot_product_attention(*sets[turn % count], is_causal=causal)

    def both(turn: int) -> None:
        parts = [part.requires_grad_() for part in sets[turn % count]]
        torch.autograd.grad(functional.scaled_dot_product_attention(*parts, is_causal=causal).sum(), parts)

    paths = {"flash": SDPBackend.FLASH_ATTENTION, "standard": SDPBackend.MATH}
    scores = COPIES[backward] * torch.float32.itemsize * batch * heads * length**2
    if device == "cpu" and scores > SHARE * free_bytes(device):  # a CPU without memory ends processes, a card refuses
        del paths["standard"]
    for name, path in paths.items():
        with sdpa_kernel(path), compute_in_input_precision(device):
            try:
                seconds[name] = timed(partial(both if backward else forward), device, budget_s=budget_s)
            except torch.OutOfMemoryError:
                if path == SDPBackend.FLASH_ATTENTION:
                    raise
    return seconds


def sweep(device: str, level: Level) -> Iterator[SweepRow]:
    """Yield times over lengths, causal and not, forward alone and with the backward pass.

    It ends before a length that would take longer than what is left of the level's seconds.
    """
    rule = table("speed")["sweep"]
    shape = rule["cpu" if device == "cpu" else "card"]
    dims = shape["dims"] if level == "full" else shape["dims"][:1]
    runs, most_sets = (2, CPU_SWEEP_SETS) if device == "cpu" else (WARM_UP + LEAST_RUNS, None)
    begun, spent, work = time.perf_counter(), 0.0, 0.0
    for length in rule["lengths"]:
        started = time.perf_counter()
        if started - begun + spent + GROWTH * runs * work > shape["seconds"][level]:
            return
        work = 0.0
        for dim, causal, backward in product(dims, (False, True), (False, True)):
            point = (1, length, shape["heads"], dim)
            row = measure(point, device, causal=causal, backward=backward, budget_s=SWEEP_BUDGET_S, most_sets=most_sets)
            work += sum(row.values())
            yield SweepRow(point, causal, backward, row["flash"], row.get("standard"))
        spent = time.perf_counter() - started


def operations(point: Point) -> float:
    """Return the operations of a forward pass without mask: two products of length x length x dim per head, with additions."""
    batch, length, heads, dim = point
    return 4.0 * batch * heads * length * length * dim


def peak(work: Callable[[], object], device: str) -> int:
    """Return the peak memory of a piece of work in bytes, including its result, without what was allocated before."""
    gc.collect()  # garbage of before, freed during the work, would count against what the work allocates
    if device != "cpu":
        work()  # allocations made once for all calls do not count
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        kept = work()
        torch.cuda.synchronize(device)
        del kept
        return int(torch.cuda.max_memory_allocated(device) - before)
    for _ in range(PROFILES):
        with torch.autograd.profiler.profile(profile_memory=True) as profile:
            kept = work()
        del kept
        now = highest = 0
        for event in profile.kineto_results.events():
            if event.name() == "[memory]":
                now += event.nbytes()
                highest = max(highest, now)
        if highest:
            break
    return int(highest)
