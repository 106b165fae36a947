"""kernels.vector_add, graph, compile and determinism: a first kernel, captured graphs, compiled kernels, and equal results of equal calls."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verify.checks.kernels.memory_pattern import MULTIPLIER
from verify.checks.kernels.products import GPU_LARGE
from verify.inputs import corrupt, normal, synchronize
from verify.operators.check import Comparison, comparison_run
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

ELEMENTS = 1 << 20


def _sums(device: str, dtype: str) -> Iterator[Comparison]:
    one, other = (normal(ELEMENTS, seed=seed, dtype=dtype) for seed in (1, 2))
    # float64 holds the sum of two float32 numbers exactly, so rounding it once gives the only correct result.
    yield Comparison(f"{ELEMENTS} sums", one.to(device) + other.to(device), (one.double() + other.double()).float())


vector_add = comparison_run(_sums, dtypes=("float32",))


GRAPH_SIZE, PLAYS = 512, 3
WITHOUT_GRAPHS = "serve without graphs and compiled kernels: --enforce-eager"


def graph(context: CheckContext) -> CheckResult:
    if context.device in (None, "cpu") and not context.faults:
        return CheckResult("skip", "CPUs have no kernel graphs")
    return comparison_run(_replays, dtypes=("float32",), remedy=WITHOUT_GRAPHS)(context)


def _replays(device: str, dtype: str) -> Iterator[Comparison]:
    """Yield replays of a graph that was captured once, with other numbers, compared with direct calls bit for bit."""
    weights = normal(GRAPH_SIZE, GRAPH_SIZE, seed=41, dtype=dtype).to(device)
    inputs = [normal(8, GRAPH_SIZE, seed=42 + turn, dtype=dtype).to(device) for turn in range(PLAYS)]
    called = [_captured(one, weights).cpu() for one in inputs]
    # On a CPU an injected fault is proven by calling the same work again.
    played = [_captured(one, weights).cpu() for one in inputs] if device == "cpu" else _play(inputs, weights, device)
    for turn, pair in enumerate(zip(played, called, strict=True)):
        yield Comparison(f"replay {turn + 1} of a graph", *pair)


def _captured(values: Tensor, weights: Tensor) -> Tensor:
    return (values @ weights).relu() @ weights


def _play(inputs: list[Tensor], weights: Tensor, device: str) -> list[Tensor]:
    place = inputs[0].clone()
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            _captured(place, weights)  # libraries create their handles outside the capture
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = _captured(place, weights)
        played = []
        for one in inputs:
            place.copy_(one)
            graph.replay()
            played.append(result.cpu())
    return played


COMPILED_ELEMENTS = 100_000
TOLERANCE = 16
"""Allowed difference in units in the last place of float32."""
MESSAGE_CHARACTERS = 300


def compiled(context: CheckContext) -> CheckResult:
    values = normal(COMPILED_ELEMENTS, seed=21, dtype="float32")
    own = context.prefix and context.prefix / "verify"  # what is in /tmp may not be executable
    with tempfile.TemporaryDirectory(dir=own if own and os.access(own, os.W_OK) else None) as folder:
        # Do not reuse results of an earlier run, and start no compiler processes.
        os.environ |= {
            "TORCHINDUCTOR_CACHE_DIR": folder,
            "TRITON_CACHE_DIR": f"{folder}/triton",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        try:
            result = torch.compile(_work, fullgraph=True)(values.to(context.device or "cpu")).cpu()
        except Exception as error:  # noqa: BLE001 - torch wraps the compiler's errors in many kinds of exceptions
            return _not_made(str(error))
        made = sorted({name.rpartition(".")[2] for _, _, names in os.walk(folder) for name in names})
    exact = _work(values.double())
    lost = TOLERANCE * torch.finfo(torch.float32).eps * (exact.abs() + 1)
    compared = Comparison("torch.compile(silu(x) cos(x) + 1)", result, exact, lost)
    outcome = comparison_run(lambda *_: [compared], dtypes=("float32",), remedy=WITHOUT_GRAPHS)(context)
    return replace(outcome, evidence={**outcome.evidence, "kinds of file made": made})


def _work(values: Tensor) -> Tensor:
    return values * values.sigmoid() * values.cos() + 1


def _not_made(message: str) -> CheckResult:
    rows: list[dict[str, Any]] = table("compile")["remedy"]
    remedy = next(row["do"] for row in rows if row["pattern"] in message)
    decisive = re.search(r"^.*(?:rror|C\+\+ compiler|C compiler).*$", message, re.MULTILINE)
    words = (decisive[0] if decisive else message).strip()[:MESSAGE_CHARACTERS]
    return CheckResult("fail", f"no kernel can be compiled here: {words}", (), {"said": message[-2000:]}, remedy)


SIZE = CPU_LARGE = 512


def determinism(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    hashes = [{name: result_hash(result) for name, result in _results(device)} for _ in range(2)]
    if "wrong-result" in context.faults:
        last = next(iter(hashes[1]))
        hashes[1][last] = result_hash(corrupt(dict(_results(device))[last]))
    nondeterministic = [name for name in hashes[0] if hashes[0][name] != hashes[1][name]]
    name, count = "kernels that differ from call to call", len(nondeterministic)
    figures = (Figure(name, count, "count", ceiling=0, source="deterministic kernels"),)
    evidence = {"result_hashes": hashes[0], **synchronize(device)}
    if nondeterministic:
        text = f"different bits when called again with the same numbers: {', '.join(nondeterministic)}"
        return CheckResult("fail", text, figures, evidence, "run it again; do not trust the device")
    return CheckResult("ok", f"{len(hashes[0])} kernels give the same bits when called again", figures, evidence)


def result_hash(result: Tensor) -> str:
    """Return the hash of the bits of a result."""
    return hashlib.sha256(bytes(result.contiguous().view(torch.uint8).flatten().tolist())).hexdigest()[:16]


def _results(device: str) -> Iterator[tuple[str, Tensor]]:
    values = normal(64, SIZE, seed=51, dtype="bfloat16").to(device)
    weights = normal(SIZE, SIZE, seed=52, dtype="bfloat16").to(device)
    yield "product", (values @ weights).cpu()
    yield "softmax", values.float().softmax(dim=1).cpu()
    yield "norm", functional.layer_norm(values.float(), (SIZE,)).cpu()
    size = CPU_LARGE if device == "cpu" else GPU_LARGE
    left, right = (normal(size, size, seed=seed, dtype="bfloat16").to(device) for seed in (53, 54))
    # An integer checksum of the bits and positions of a large result, computed on its device; independent of the order.
    words = (left @ right).flatten().view(torch.int16).long()
    checksum = (words * (torch.arange(words.numel(), device=words.device) * MULTIPLIER + 1)).sum()
    yield "large product", checksum.reshape(1).cpu()
    yield "exponential", values.float().exp().cpu()
