"""kernels.compile: kernels made by torch's compiler."""

import os
import re
import tempfile
from typing import Any

import torch
from torch import Tensor

from verify.inputs import corrupt, normal, synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

ELEMENTS = 100_000
TOLERANCE = 16
"""Allowed difference in units in the last place of float32."""
MESSAGE_CHARACTERS = 300


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    values = normal(ELEMENTS, seed=21, dtype="float32")
    with tempfile.TemporaryDirectory() as folder:
        # Do not reuse results of an earlier run, and start no compiler processes.
        os.environ |= {
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TRITON_CACHE_DIR": f"{folder}/triton",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        try:
            result = torch.compile(_work, fullgraph=True)(values.to(device)).cpu()
        except Exception as error:  # noqa: BLE001 - torch wraps the compiler's errors in many kinds of exceptions
            return _not_made(str(error))
        made = sorted({name.rpartition(".")[2] for _, _, names in os.walk(folder) for name in names})
    if "wrong-result" in context.faults:
        result = corrupt(result)
    exact = _work(values.double())
    share = float(((result.double() - exact).abs() / (exact.abs() + 1) / torch.finfo(torch.float32).eps).max())
    figures = (Figure("error", share, "units in the last place", ceiling=TOLERANCE, source="ours"),)
    evidence = {"call": "torch.compile(silu(x) cos(x) + 1)", "kinds of file made": made, **synchronize(device)}
    if not share <= TOLERANCE:
        text = f"a compiled kernel is off by {share:.3g} units in the last place, at most {TOLERANCE} allowed"
        return CheckResult("fail", text, figures, evidence, "serve without compiled kernels: --enforce-eager")
    return CheckResult("ok", "a kernel was compiled here, ran, and is correct", figures, evidence)


def _work(values: Tensor) -> Tensor:
    return values * values.sigmoid() * values.cos() + 1


def _not_made(message: str) -> CheckResult:
    rows: list[dict[str, Any]] = table("compile")["remedy"]
    remedy = next(row["do"] for row in rows if row["pattern"] in message)
    decisive = re.search(r"^.*(?:rror|C\+\+ compiler|C compiler).*$", message, re.MULTILINE)
    words = (decisive[0] if decisive else message).strip()[:MESSAGE_CHARACTERS]
    return CheckResult("fail", f"no kernel can be compiled here: {words}", (), {"said": message[-2000:]}, remedy)
