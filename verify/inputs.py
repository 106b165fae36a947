"""Test data that is identical on every host and in every run, and timing of work.

The data is created on the CPU, so no device influences it. Timed work is warmed up and has inputs that no cache holds; the median counts.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

DTYPES = ("float32", "bfloat16", "float16")
FP8 = "float8_e4m3fn"


def normal(*shape: int, seed: int, dtype: str) -> Tensor:
    """Return normally distributed numbers, rounded to the dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(getattr(torch, dtype))


def rank_values(length: int, rank: int) -> Tensor:
    """Return whole numbers that differ between processes; float32 holds their sums exactly."""
    return (torch.arange(length) * (rank + 3) % 4099 + rank).float()


def count_differences(one: Tensor, two: Tensor) -> int:
    """Return the number of different elements."""
    return int((one != two).sum())


def corrupt(result: Tensor) -> Tensor:
    """Return a copy in which the largest element is off by one part in a hundred."""
    spoiled = result.clone().flatten()
    place = spoiled.abs().argmax()
    spoiled[place] = spoiled[place] * 1.01
    return spoiled.reshape(result.shape)


def require_full_float32() -> None:
    """Compute float32 products, and sums over a split depth, in full float32 in this process.

    NVIDIA's containers request TF32 by a variable (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE), and torch adds partial results in 16 bits by
    default. Both exceed the error bound of float32, so a correct device would fail.
    """
    products = torch.backends.cuda.matmul
    products.allow_tf32 = False
    products.allow_bf16_reduced_precision_reduction = products.allow_fp16_reduced_precision_reduction = False


@contextmanager
def compute_in_input_precision(device: str) -> Iterator[None]:
    """Let torch's standard attention compute in the precision of its inputs on a GPU.

    Since 2.5 torch converts 16 bits to 32 first by default (aten/native/transformers/attention.cpp). Compared with that,
    flash attention looks faster and smaller than it is. Older releases compute in 16 bits and have no switch. CPUs keep
    the default: most have no 16-bit products, and standard attention takes about ten times as long in them.
    """
    switch = getattr(torch.backends.cuda, "allow_fp16_bf16_reduction_math_sdp", None)
    if switch is None or device == "cpu":
        yield
        return
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    switch(True)
    try:
        yield
    finally:
        switch(before)


def synchronize(device: str) -> dict[str, Any]:
    """Wait until a device has finished all work, and return the evidence. CPUs need no wait."""
    if not device.startswith("cuda"):
        return {"device": device}
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    event.synchronize()
    return {"device": device, "name": torch.cuda.get_device_name(device), "event completed": event.query()}


WARM_UP = 3
LEAST_RUNS, MOST_RUNS = 5, 200
WINDOW_S = 1.0
HEAD_START_CYCLES = 1_000_000
"""Clock cycles of a card: half a millisecond at 2 GHz, in which the host launches tens of kernels."""
CPU_CACHE_BYTES = 32 << 20
"""Last-level cache of one core complex (AMD EPYC). On CPUs speeds are only recorded."""
GPU_CACHE_BYTES = 128 << 20
"""Used if torch does not report the cache of a card: more than the L2 of a B200 (126 MB)."""


def rotation(device: str, bytes_of_one: int) -> int:
    """Return how many sets of inputs must take turns so that no cache holds the next one; at most 64."""
    cache = CPU_CACHE_BYTES
    if device != "cpu":
        cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0) or GPU_CACHE_BYTES
    return max(2, min(64, 2 * cache // max(1, bytes_of_one) + 1))


def timed(work: Callable[[int], object], device: str, *, budget_s: float) -> float:
    """Run `work` with the number of the turn until the time budget is spent, and return the median seconds.

    GPUs are timed by their own clock.
    """
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
            break  # only recorded: a slow CPU does not need five runs
    return statistics.median(seconds)


def windows(work: Callable[[int], object], device: str, *, seconds: float, once_s: float) -> list[float]:
    """Run `work` with the number of the turn without a pause, and return the seconds of one turn in each window of about a second.

    After `seconds` no further window starts; a turn is expected to take `once_s`.
    """
    found: list[float] = []
    count, begun = max(1, round(WINDOW_S / once_s)), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        for turn in range(count):
            work(turn)
        if device != "cpu":
            torch.cuda.synchronize(device)
        found.append((time.perf_counter() - start) / count)
    return found


def median_s(call: Callable[[], None], times: int, warm_up: int) -> float:
    """Return the median seconds of a blocking call that runs a fixed number of times, because other processes take part."""
    taken = []
    for _ in range(warm_up + times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[warm_up:])


def reduce_sum(numbers: Tensor) -> None:
    """Replace the numbers by their sum over all processes, and wait for the result.

    nccl-tests time the same operation, and a switch adds by itself. NCCL has no NVLS maximum of 32-bit floats
    (ncclNvlsSupported, src/include/device.h). Ones grow by the number of processes each time; 8 processes may repeat it 40 times.
    """
    dist.all_reduce(numbers)
    if numbers.is_cuda:
        torch.cuda.synchronize()


def bus_bytes(size: int, processes: int) -> float:
    """Return the bytes that each process of a ring sends and receives to add arrays of `size` bytes (nccl-tests, doc/PERFORMANCE.md)."""
    return 2 * (processes - 1) / processes * size


def _once(work: Callable[[int], object], turn: int, device: str) -> float:
    if device == "cpu":
        started = time.perf_counter()
        work(turn)
        return time.perf_counter() - started
    with torch.cuda.device(device):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # Keep the card busy while the host submits the work. Otherwise a short kernel would be timed at the host's speed.
        torch.cuda._sleep(HEAD_START_CYCLES)  # noqa: SLF001 - torch has no other name for it
        before.record()
        work(turn)
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000


def random_sets(count: int, *shape: int, dtype: str, device: str, parts: int) -> list[tuple[Tensor, ...]]:
    """Return `count` sets of `parts` tensors of random numbers. Zeros would draw less power and run faster."""
    return [
        tuple(torch.randn(*shape, device=device, dtype=torch.float32).to(getattr(torch, dtype)) for _ in range(parts))
        for _ in range(count)
    ]
