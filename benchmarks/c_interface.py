"""What a call of the C interface costs over the same operator called in torch, on this machine's CPU.

    PYTHON -m benchmarks.c_interface

PYTHON has torch. The library is built in a temporary folder. Each shape is computed by both in turn, from Python, by one thread, with tensors
that exist already. The CPU time of that thread counts, so that a busy machine disturbs little; medians are compared. The library also copies
the results into the caller's memory, which is the part that grows with the shape.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.machine import ROOT, header, publish, say

SHAPES = [(1, 16, 2, 64), (2, 512, 12, 64), (1, 1024, 16, 64)]
"""Batch, length, heads, head size."""
FIXED_POINT = (2, 512, 12, 64)
DTYPES = {"float32": 2, "bfloat16": 1}
"""Types with their values in flash_attn.h."""
SECONDS = 3.0
"""CPU seconds of each shape, direction and type."""
LEAST, MOST = 15, 2000
AIM = 1.1
"""Largest ratio at the fixed point, forward."""


class Params(ctypes.Structure):
    """As in flash_attn.h."""

    _fields_ = [
        ("struct_size", ctypes.c_size_t),
        *((name, ctypes.c_int64) for name in ("batch", "length", "heads", "head_size")),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_int32) for name in ("causal", "dtype", "layout", "device", "device_index")),
        ("stream", ctypes.c_void_p),
    ]


def main() -> int:
    result = header("c-interface", ["torch"])
    result["versions"]["compiler"] = first_line(["c++", "--version"])
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="firstlight-") as folder:
        built = subprocess.run(
            [sys.executable, ROOT / "verify/cabi/build.py", "--output", folder], stdout=subprocess.PIPE, check=False
        )
        if built.returncode:
            return 2
        library = ctypes.CDLL(str(Path(folder) / "libflash_attn.so"))
        rows = [row for name in DTYPES for shape in SHAPES for row in compare(library, name, shape)]
    aimed = {row["dtype"]: row["ratio"] for row in rows if row["shape"] == FIXED_POINT and row["what"] == "forward"}
    met = max(aimed.values()) <= AIM
    result |= {"causal": True, "rows": rows, "aim": {"ratio": AIM, "shape": FIXED_POINT, "found": aimed, "met": met}}
    publish(result, "c-interface", always=True)
    return 0 if met else 1


def compare(library: ctypes.CDLL, name: str, shape: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    """Time both directions of one shape."""
    batch, length, heads, size = shape
    dtype = getattr(torch, name)
    torch.manual_seed(1)
    grad, query, key, value = (torch.randn(batch, length, heads, size).to(dtype) for _ in range(4))
    out, grads = torch.empty_like(query), [torch.empty_like(query) for _ in range(3)]
    sums = torch.empty(batch, heads, length)
    params = Params(ctypes.sizeof(Params), batch, length, heads, size, causal=1, dtype=DTYPES[name], layout=0, device=0)
    views = [tensor.transpose(1, 2) for tensor in (grad, query, key, value)]
    own, own_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*views[1:], 0.0, True)  # noqa: SLF001
    calls = {
        "forward": (
            lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*views[1:], 0.0, True),  # noqa: SLF001
            prepared(library.flash_attn_forward, params, query, key, value, out, sums),
        ),
        "backward": (
            lambda: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(  # noqa: SLF001
                *views, own, own_sums, 0.0, True
            ),
            prepared(library.flash_attn_backward, params, grad, query, key, value, out, sums, *grads),
        ),
    }
    rows = []
    for what, (in_torch, in_c) in calls.items():
        theirs, ours = alternating(in_torch, in_c)
        rows.append(
            {
                "dtype": name,
                "shape": shape,
                "what": what,
                "torch_us": round(statistics.median(theirs) * 1e6, 1),
                "c_us": round(statistics.median(ours) * 1e6, 1),
                "ratio": round(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)), 3),
                "pairs": len(ours),
            }
        )
        say(f"{name} {shape} {what}: {rows[-1]['c_us']} us, torch {rows[-1]['torch_us']} us")
    return rows


def prepared(function: Callable[..., int], params: Params, *tensors: torch.Tensor) -> Callable[[], None]:
    """Return the call with its arguments converted."""
    arguments = [ctypes.byref(params), *(ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)]

    def call() -> None:
        assert function(*arguments) == 0

    return call


def alternating(first: Callable[[], object], second: Callable[[], object]) -> tuple[list[float], list[float]]:
    """CPU seconds of each call of both, in pairs; the one that begins alternates. The first pair warms up."""
    times: tuple[list[float], list[float]] = ([], [])
    began = time.process_time()
    while len(times[0]) <= LEAST or (time.process_time() - began < SECONDS and len(times[0]) <= MOST):
        order = ((0, first), (1, second))
        for index, call in order if len(times[0]) % 2 else reversed(order):
            started = time.process_time()
            call()
            times[index].append(time.process_time() - started)
    return times[0][1:], times[1][1:]


def first_line(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
