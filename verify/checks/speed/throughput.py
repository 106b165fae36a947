"""speed.gemm, memory, copies and attention: matrix products, memory bandwidth, copies between host and device, and flash attention compared with standard attention."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from verify.attention.providers import packed
from verify.attention.speed import Point, SweepRow, dtype_of, measure, operations, sweep
from verify.checks.kernels.products import fp8_product, refuses_fp8
from verify.host.cpu import bind
from verify.host.devices import card_name
from verify.host.load import watch
from verify.host.views import torch_view
from verify.host.views.pci import link
from verify.inputs import DTYPES, FP8, random_sets, rotation, synchronize, timed, windows
from verify.operators.speed import evaluate, link_floor, speed_floor
from verify.records import CheckContext, CheckResult, Figure, Level
from verify.tables import table

GPU_SIZE, CPU_SIZE = 8192, 256
"""Rows and columns of the matrices."""
GPU_BYTES, CPU_BYTES = 1 << 30, 128 << 20
"""Size of one buffer of memory: far more than any cache holds."""
COPIED_BYTES = 256 << 20
BUDGET_S, COPIES_BUDGET_S = 0.2, 0.3


def gemm(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_SIZE if device == "cpu" else GPU_SIZE
    figures, flops = [], 2 * size**3
    kinds: dict[str, Callable[..., Tensor]] = dict.fromkeys(DTYPES, torch.matmul)
    if device != "cpu" and refuses_fp8(device) is None:
        kinds[FP8] = fp8_product
    with watch(torch_view.address(device)) as readings:
        for dtype, product in kinds.items():
            kind = "fp8" if dtype == FP8 else dtype
            count = rotation(device, 2 * size * size * (1 if dtype == FP8 else 2))
            sets = random_sets(count, size, size, dtype=dtype, device=device, parts=2)
            work = partial(_in_turn, product, sets)
            seconds = timed(work, device, budget_s=BUDGET_S)
            least, source = speed_floor(card_name(device), f"gemm_{kind}")
            figures.append(Figure(f"{kind} products", flops / seconds / 1e12, "TFLOP/s", least, source=source))
            figures += _long_load(f"{kind} products", work, context, once_s=seconds, work_of_one=flops / 1e12)
    return evaluate(figures, context, {"size": size, **synchronize(device)}, readings)


def _long_load(
    name: str, work: Callable[[int], object], context: CheckContext, *, once_s: float, work_of_one: float
) -> Iterator[Figure]:
    """Run a load for the seconds of its kind and of the level, on a GPU only, and yield its figures; see `sustained`."""
    lasts = table("speed")["sustained"]["seconds"].get(name.partition(" ")[0], {}).get(context.level)
    if lasts and context.device not in (None, "cpu"):
        turns = windows(work, str(context.device), seconds=lasts, once_s=once_s)
        yield from sustained(name, turns, work_of_one, lasts)


def sustained(name: str, turns: Sequence[float], work_of_one: float, lasts: float) -> Iterator[Figure]:
    """Yield the median speed of a long load, and its speed at the end over that at its start.

    `turns` are the seconds of a turn in each window; a turn does `work_of_one`, 10^12 floating-point operations or GB of copies.
    """
    rule, third = table("speed")["sustained"], len(turns) // 3 or 1
    unit = "GB/s" if name.startswith("copies") else "TFLOP/s"
    yield Figure(f"{name} over {lasts:g} s", work_of_one / statistics.median(turns), unit)
    share = statistics.median(turns[:third]) / statistics.median(turns[-third:])
    what = f"{name} at the end of {lasts:g} s over those at the start"
    yield Figure(what, share, "times", floor=rule["share"], source=rule["source"])


def _in_turn(product: Callable[..., Tensor], sets: list[tuple[Tensor, ...]], turn: int) -> Tensor:
    return product(*sets[turn % len(sets)])


def memory(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    size = CPU_BYTES if device == "cpu" else GPU_BYTES
    origin = torch.randint(0, 1 << 62, (size // 8,), device=device)
    target = torch.empty_like(origin)
    with watch(torch_view.address(device)) as readings:
        seconds = timed(lambda _: target.copy_(origin), device, budget_s=BUDGET_S)
    least, source = speed_floor(card_name(device), "memory")
    figures = [Figure("memory, read and written", 2 * size / seconds / 1e9, "GB/s", least, source=source)]
    return evaluate(figures, context, {"bytes": size, **synchronize(device)}, readings)


def copies(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    if on_cpu and not context.faults:
        return CheckResult("skip", "no GPU to copy to")
    address = torch_view.address(device)
    seat = bind(address)
    # On a CPU an injected fault is proven on a copy within the host's memory.
    host = torch.randint(0, 1 << 62, (COPIED_BYTES // 8,), pin_memory=not on_cpu)
    there = torch.empty_like(host, device=device)
    least, source = speed_floor(card_name(device), "copy")
    figures: list[Figure] = []
    long: list[Figure] = []
    for name, target, origin in (("copies to the device", there, host), ("copies to the host", host, there)):
        work = partial(_copy, target, origin)
        seconds = timed(work, device, budget_s=COPIES_BUDGET_S)
        if least is None and address:
            least, source = link_floor(link(address))  # a link that was idle before is slow
        figures.append(Figure(name, COPIED_BYTES / seconds / 1e9, "GB/s", least, source=source))
        long += _long_load(name, work, context, once_s=seconds, work_of_one=COPIED_BYTES / 1e9)
    evidence = {"bytes": COPIED_BYTES, "memory": "pinned", **seat, **synchronize(device)}
    return evaluate([*figures, *long], context, evidence)


def _copy(target: Tensor, origin: Tensor, _turn: int) -> Tensor:
    return target.copy_(origin, non_blocking=True)


def attention(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    if missing := packed.FLASH.missing(device):
        return CheckResult("skip", missing)
    level: Level = "full" if context.includes("full") else "standard"
    points = table("speed")["points"]
    if on_cpu and level != "full":
        points = points[:1]
    figures, rows = [], []
    with watch(torch_view.address(device)) as readings:
        for point in points:
            row = measure(point, device)
            rows.append({"point": point, **{name: seconds * 1000 for name, seconds in row.items()}})
            figures.append(Figure(f"flash {_shape(point)}", operations(point) / row["flash"] / 1e12, "TFLOP/s"))
            # A faster standard attention is a warning on GPUs; on CPUs it is only recorded.
            least = None if on_cpu else 1.0
            if "standard" not in row:
                continue
            ratio = row["standard"] / row["flash"]
            name, source = f"standard over flash {_shape(point)}", "no gain, no flash"
            figures.append(Figure(name, ratio, "times the time", floor=least, source=source))
        lengths = list(sweep(device, level))
    evidence = {"milliseconds": rows, **milliseconds_by_length(lengths), "dtype": dtype_of(device)}
    evidence |= synchronize(device)
    return evaluate([*figures, *gains(lengths, card_name(device))], context, evidence, readings)


def gains(rows: Iterable[SweepRow], name: str | None) -> Iterator[Figure]:
    """Yield the speed at the longest length that both paths reached, for each head dimension, mask and pass.

    `name` is the GPU's, for the minimum of its type at long lengths; there is none for a CPU.
    """
    longest = {
        (row.dim, row.causal, row.backward): row for row in sorted(rows, key=lambda row: row.length) if row.standard
    }
    for row in longest.values():
        assert row.standard is not None
        if not row.causal and not row.backward:
            long = row.length >= table("speed")["attention"]["length"]
            least, source = speed_floor(name if long else None, f"attention_{row.dim}")
            speed = operations(row.point) / row.flash / 1e12
            yield Figure(f"flash {_shape(row.point)}", speed, "TFLOP/s", least, source=source)
        kind = f"{_passes(row)}, {'causal' if row.causal else 'not causal'}"
        yield Figure(f"standard over flash, {kind}, {_shape(row.point)}", row.standard / row.flash, "times the time")


def milliseconds_by_length(rows: Iterable[SweepRow]) -> Mapping[str, Mapping[str, Mapping[int, float]]]:
    """Return milliseconds for each pass and head dimension, by path and mask, then by length."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        series = found.setdefault(f"{_passes(row)}, head dimension {row.dim}, milliseconds by length", {})
        mask = ", causal" if row.causal else ""
        for path, seconds in (("flash", row.flash), ("standard", row.standard)):
            if seconds is not None:
                series.setdefault(f"{path}{mask}", {})[row.length] = 1000 * seconds
    return found


def _passes(row: SweepRow) -> str:
    return "forward and backward" if row.backward else "forward"


def _shape(point: Point) -> str:
    return f"({', '.join(map(str, point))})"
