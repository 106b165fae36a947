"""vLLM's kernels in Triton, by Triton's interpreter on the CPU: the code that a card would compile, compared with the reference."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verify.attention.cases import CASES
from verify.attention.providers import paged

INTERPRETED = f"""
import json, sys
from types import ModuleType, SimpleNamespace
sys.path.append({str(Path(sys.prefix) / "triton")!r})
import torch, triton, triton.language
import vllm.triton_utils
# The CPU build replaces Triton by a placeholder when it is imported.
vllm.triton_utils.triton, vllm.triton_utils.tl = triton, triton.language
# The CPU build's file of this name is for processors with AVX512 and bfloat16, and ends the process on others; Triton's kernels need none of it.
sys.modules["vllm._C"] = ModuleType("vllm._C")
torch.cuda.get_device_properties = lambda *_: SimpleNamespace(gcnArchName="gfx90a")
import vllm.platforms.rocm
vllm.platforms.rocm.use_rocm_custom_paged_attention = lambda *_: False  # it is written in HIP
from verify.attention.cases import CASES, plain
from verify.attention.check import ErrorComparison, distance, tolerance_problem
from verify.attention.providers import paged as unified
[provider] = (one for one in (unified.TRITON, unified.ROCM) if one.name == sys.argv[1])
assert not (provider.prepare and provider.prepare())
problems = {{}}
for case in (case for case in CASES if case.name in sys.argv[2:]):
    inputs = case.inputs("float16")
    exact = case.exact(inputs)
    sizes = (distance(call(case, inputs), exact) for call in (provider.compute, plain))
    problems[case.name] = tolerance_problem(ErrorComparison(case.name, "float16", *sizes))
print(json.dumps(problems))
"""
NAMES = {
    "decode one token",
    "sliding window",
    "capped scores",
    "linear biases",
    "sequences of many lengths",
    "paged cache",
}
CHEAP = [case for case in CASES if case.name in NAMES]
"""Problems that the interpreter computes in seconds; they have every feature that the kernels support."""


@pytest.mark.parametrize("name", ["vllm_triton", "vllm_rocm"])
def test_the_kernels_compute_every_feature_of_their_row(name: str) -> None:
    [provider] = (one for one in (paged.TRITON, paged.ROCM) if one.name == name)
    taken = [case for case in CHEAP if provider.refuses(case, "float16", "rocm") is None]
    assert set().union(*(case.required_features for case in taken)) == set(provider.row["takes"]["rocm"])
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED, name, *(case.name for case in taken)],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == dict.fromkeys(case.name for case in taken)
