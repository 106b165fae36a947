"""speed.attention: speed of flash attention compared with standard attention."""

from collections.abc import Iterable, Iterator, Mapping

from verify.attention.providers.packed import planned_packages
from verify.attention.speed import Point, SweepRow, dtype_of, measure, measure_package, operations, sweep
from verify.host.load import watch
from verify.host.views import torch_view
from verify.inputs import synchronize
from verify.operators.speed import evaluate, speed_floor
from verify.records import CheckContext, CheckResult, Figure, Level
from verify.tables import table


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    on_cpu = device == "cpu"
    level: Level = "full" if context.includes("full") else "standard"
    points = table("speed")["points"]
    if on_cpu and level != "full":
        points = points[:1]
    figures, rows = [], []
    with watch(torch_view.address(device)) as readings:
        for point in points:
            row = measure(point, device)
            rows.append({"point": point, **{name: seconds * 1000 for name, seconds in row.items()}})
            figures.append(Figure(f"flash {_name(point)}", operations(point) / row["flash"] / 1e12, "TFLOP/s"))
            # A faster standard attention is a warning on GPUs; on CPUs it is only recorded.
            least = None if on_cpu else 1.0
            if "standard" not in row:
                continue
            ratio = row["standard"] / row["flash"]
            name, source = f"standard over flash {_name(point)}", "no gain, no flash"
            figures.append(Figure(name, ratio, "times the time", floor=least, source=source))
        figures += [
            Figure(
                f"{title} {_name(point)}", operations(point) / measure_package(call, point, device) / 1e12, "TFLOP/s"
            )
            for title, call in planned_packages(context, device)
            for point in points
        ]
        lengths = list(sweep(device, level))
    evidence = {"milliseconds": rows, **milliseconds_by_length(lengths), "dtype": dtype_of(device)} | synchronize(
        device
    )
    card = None if on_cpu else torch_view.load().cuda.get_device_name(device)
    return evaluate([*figures, *gains(lengths, card)], context, evidence, readings)


def gains(rows: Iterable[SweepRow], name: str | None) -> Iterator[Figure]:
    """Yield the speed at the longest length that both paths reached, for each head dimension, mask and pass.

    `name` is the GPU's, for the minimum of its type at long lengths; None for a CPU.
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
            yield Figure(f"flash {_name(row.point)}", speed, "TFLOP/s", least, source=source)
        kind = f"{_passes(row)}, {'causal' if row.causal else 'not causal'}"
        yield Figure(f"standard over flash, {kind}, {_name(row.point)}", row.standard / row.flash, "times the time")


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


def _name(point: Point) -> str:
    return f"({', '.join(map(str, point))})"
