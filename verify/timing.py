"""How work is timed: warmed up, over inputs that no cache holds, the median told."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WARM_UP = 3
LEAST_RUNS, MOST_RUNS = 5, 200
HEAD_START_CYCLES = 1_000_000
"""Of a card's clock: half a millisecond at 2 GHz, in which the host launches some tens of kernels."""
CPU_CACHE_BYTES = 32 << 20
"""The last cache that the cores of one complex share (AMD EPYC); on CPUs speeds are recorded, not judged."""
GPU_CACHE_BYTES = 128 << 20
"""Where torch does not tell a card's: more than the L2 of a B200 (126 MB)."""


@dataclass(frozen=True)
class Timed:
    """Seconds of one piece of work."""

    median: float
    least: float
    greatest: float
    runs: int


def rotation(device: str, bytes_of_one: int) -> int:
    """How many sets of inputs must take turns, so that none of them is in a cache when its turn comes; at most 64."""
    import torch

    cache = CPU_CACHE_BYTES
    if device != "cpu":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or GPU_CACHE_BYTES
    return max(2, min(64, 2 * cache // max(1, bytes_of_one) + 1))


def timed(work: Callable[[int], object], device: str, *, budget_s: float) -> Timed:
    """Run `work` with the number of the turn until the budget is spent; on GPUs the card's own clock counts."""
    import torch

    turn = 0
    while turn < (WARM_UP if device != "cpu" else 1):
        work(turn)
        turn += 1
    if device != "cpu":
        torch.cuda.synchronize(device)
    begun = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < LEAST_RUNS or (len(seconds) < MOST_RUNS and time.perf_counter() - begun < budget_s):
        seconds.append(_once(work, turn, device))
        turn += 1
        if device == "cpu" and time.perf_counter() - begun > 2 * budget_s:
            break  # recorded, not judged: a slow CPU need not run it five times
    return Timed(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def median_s(call: Callable[[], None], times: int, warm_up: int) -> float:
    """Median seconds of a call that waits for its own end, made a fixed number of times: others take part as often."""
    taken = []
    for _ in range(warm_up + times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[warm_up:])


def reduce_sum(numbers: Tensor) -> None:
    """Have all processes hold the sum of their numbers, and wait for it.

    It is what nccl-tests time, and what a switch adds by itself: NCCL gives NVLS no maximum of 32 bit floats
    (ncclNvlsSupported, src/include/device.h). Ones grow by the number of processes each time, which 8 of them may do 40 times.
    """
    import torch
    import torch.distributed as dist

    dist.all_reduce(numbers)
    if numbers.is_cuda:
        torch.cuda.synchronize()


def _once(work: Callable[[int], object], turn: int, device: str) -> float:
    import torch

    if device == "cpu":
        started = time.perf_counter()
        work(turn)
        return time.perf_counter() - started
    with torch.cuda.device(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # The card is kept busy while the host hands over the work: of a short kernel the host's time would be measured else.
        torch.cuda._sleep(HEAD_START_CYCLES)  # noqa: SLF001 - torch has no other name for it
        before.record()
        work(turn)
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000


def random_sets(count: int, *shape: int, dtype: str, device: str, parts: int) -> list[tuple[Tensor, ...]]:
    """`count` sets of `parts` tensors of random numbers: zeros would draw less power and run faster."""
    import torch

    return [
        tuple(torch.randn(*shape, device=device, dtype=torch.float32).to(getattr(torch, dtype)) for _ in range(parts))
        for _ in range(count)
    ]


def clocks(device: str) -> str | None:
    """Clocks, power and temperature of an NVIDIA card now, as nvidia-smi prints them; null where it does not."""
    import torch

    if device == "cpu" or torch.version.hip is not None:
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    query = "--query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active"
    command = ["nvidia-smi", query, "--format=csv,noheader", *([f"--id=GPU-{uuid}"] if uuid else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
