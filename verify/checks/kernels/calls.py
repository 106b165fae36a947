"""kernels.vector_add, graph, compile and determinism: a first kernel, captured graphs, compiled kernels, and equal results of equal calls."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from verify.checks.kernels.memory_pattern import MULTIPLIER
from verify.checks.kernels.products import GPU_LARGE
from verify.inputs import corrupt, normal, synchronize
from verify.records import CheckContext, CheckResult, Figure
from verify.tables import table

ELEMENTS = 1 << 20


def vector_add(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    one, other = (normal(ELEMENTS, seed=seed, dtype="float32") for seed in (1, 2))
    result = one.to(device) + other.to(device)
    done = synchronize(device)
    result = result.cpu()
    if "wrong-result" in context.faults:
        result = corrupt(result)
    # float64 holds the sum of two float32 numbers exactly, so rounding it once gives the only correct result.
    expected = (one.double() + other.double()).float()
    wrong = int((result != expected).sum())
    figures = (
        Figure("elements", ELEMENTS, "count"),
        Figure("wrong elements", wrong, "count", ceiling=0, source="IEEE 754: addition is rounded once"),
    )
    evidence = {"call": "a + b, float32", **done}
    if wrong:
        place = int(torch.nonzero(result != expected)[0])
        text = f"{wrong} of {ELEMENTS} sums are wrong, the first at {place}: {result[place]} for {expected[place]}"
        return CheckResult("fail", text, figures, evidence, remedy="run it again; do not trust the device")
    return CheckResult("ok", f"{ELEMENTS} sums are correct bit for bit", figures, evidence)


GRAPH_SIZE, PLAYS = 512, 3


def graph(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    if device == "cpu" and not context.faults:
        return CheckResult("skip", "CPUs have no kernel graphs")
    weights = normal(GRAPH_SIZE, GRAPH_SIZE, seed=41, dtype="float32").to(device)
    inputs = [normal(8, GRAPH_SIZE, seed=42 + turn, dtype="float32").to(device) for turn in range(PLAYS)]
    called = [_captured(one, weights).cpu() for one in inputs]
    # On a CPU an injected fault is proven by calling the same work again.
    played = [_captured(one, weights).cpu() for one in inputs] if device == "cpu" else _play(inputs, weights, device)
    if "wrong-result" in context.faults:
        played[-1] = corrupt(played[-1])
    wrong = sum(int((one != other).sum()) for one, other in zip(called, played, strict=True))
    figures = (Figure("wrong elements", wrong, "count", ceiling=0, source="the same kernels on the same numbers"),)
    evidence = {"call": "torch.cuda.CUDAGraph, captured once", "plays": PLAYS, **synchronize(device)}
    if wrong:
        text = f"{wrong} of {sum(one.numel() for one in called)} elements of a replayed graph differ from direct calls"
        return CheckResult("fail", text, figures, evidence, "serve without graphs: --enforce-eager")
    text = f"a graph was captured, and replayed {PLAYS} times with other numbers, equal bit for bit"
    return CheckResult("ok", text, figures, evidence)


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
    device = context.device or "cpu"
    values = normal(COMPILED_ELEMENTS, seed=21, dtype="float32")
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


SIZE = CPU_LARGE = 512


def determinism(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    hashes = [result_hashes(device) for _ in range(2)]
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


def result_hashes(device: str) -> dict[str, str]:
    """Return the hash of each kernel's result."""
    return {name: result_hash(result) for name, result in _results(device)}


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
