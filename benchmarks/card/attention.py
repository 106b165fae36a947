"""Error and time of each path of torch's attention, on the shapes of its checks and of its speed measurements.

python3 -m benchmarks.card.attention DEVICE, from the checkout: one JSON list on stdout.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from verify.attention.cases import CASES, Case, plain
from verify.attention.providers import Provider, device_kind, packed
from verify.inputs import compute_in_input_precision, timed
from verify.tables import table

PATHS = (packed.FLASH, packed.CUDNN, packed.EFFICIENT, packed.MATH)
DTYPES = ("bfloat16", "float16")
BUDGET_S = 0.02


def main(device: str) -> int:
    points = [tuple(point) for point in table("speed")["points"]] if device != "cpu" else []
    cases = [case for case in CASES if case.dense and (device != "cpu" or case.level == "quick")]
    cases += [
        Case(f"speed {point}", point[2], point[2], ((point[1], point[1]),) * point[0], point[3]) for point in points
    ]
    rows = [row(case, dtype, device) for case in cases for dtype in DTYPES]
    print(json.dumps(rows))
    return 0


def row(case: Case, dtype: str, device: str) -> dict[str, Any]:
    """Return errors of plain torch and of each path compared with float64, and microseconds; or the reason why a path refuses the case."""
    inputs = case.inputs(dtype)
    small = sum(queries * keys for queries, keys in case.sequences) * case.heads <= 1 << 24
    exact = case.exact(inputs) if small else None
    there = inputs.to(device)
    entry: dict[str, Any] = {"case": case.name, "dtype": dtype}
    if exact is not None:
        entry["plain torch, largest error"] = _error(plain(case, inputs), exact)
    for path in PATHS:
        if refused := path.missing(device) or path.refuses(case, dtype, device_kind(device)):
            entry[path.name] = {"refuses": refused}
            continue

        def work(_: int, path: Provider = path) -> torch.Tensor:
            return path.compute(case, there)

        try:
            with torch.inference_mode(), compute_in_input_precision(device):
                result = work(0)
                seconds = timed(work, device, budget_s=BUDGET_S)
        except RuntimeError as error:
            entry[path.name] = {"refuses": str(error).splitlines()[0][:200]}
            continue
        entry[path.name] = {"us": round(seconds * 1e6, 1)}
        if exact is not None:
            entry[path.name]["largest error"] = _error(result.cpu(), exact)
    return entry


def _error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result.double() - exact).abs().max())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
