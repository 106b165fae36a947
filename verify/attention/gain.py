"""What flash attention gains over standard attention on this host's first device, at the fixed point."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from verify.attention.cases import Case
from verify.attention.providers import sdpa
from verify.attention.speed import dtype_of, measure
from verify.checks.memory.attention import peak
from verify.host.devices import list_devices, skip_if_busy
from verify.inputs import compute_in_input_precision
from verify.operators.speed import FIXED_POINT
from verify.records import CheckContext

MIB = 1 << 20


def measure_gain(context: CheckContext) -> dict[str, Any]:
    """Measure both paths. Touches the device, so call it in a child process.

    Args:
        context: Names the Stack, whose cards count.

    Returns:
        `device`, `dtype` and `point`; `before` (standard) and `after` (flash) with `attention_time` in milliseconds and
        `attention_memory` in MiB. If nothing could be measured, `problem` alone.
    """
    devices, problem = list_devices(context)
    if problem is not None:
        return {"problem": problem}
    device = devices[0]
    if (busy := skip_if_busy(replace(context, device=device))) is not None:
        return {"problem": busy.reason}
    batch, length, heads, dim = FIXED_POINT
    case = Case("fixed point", heads, heads, ((length, length),) * batch, dim)
    inputs = case.inputs(dtype_of(device)).to(device)
    sides: dict[str, dict[str, float]] = {"standard": {}, "flash": {}}
    for name, seconds in measure(FIXED_POINT, device).items():
        sides[name]["attention_time"] = 1000 * seconds
    for name, provider in (("standard", sdpa.MATH), ("flash", sdpa.FLASH)):
        with torch.inference_mode(), compute_in_input_precision(device):
            sides[name]["attention_memory"] = peak(partial(provider.compute, case, inputs), device) / MIB
    about = {"device": device, "dtype": dtype_of(device), "point": FIXED_POINT}
    return {**about, "before": sides["standard"], "after": sides["flash"]}
