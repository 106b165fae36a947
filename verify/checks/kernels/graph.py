"""kernels.graph: CUDA graphs compared with direct calls."""

import torch
from torch import Tensor

from verify.inputs import corrupt, normal, synchronize
from verify.records import CheckContext, CheckResult, Figure

SIZE, PLAYS = 512, 3


def run(context: CheckContext) -> CheckResult:
    device = context.device or "cpu"
    if device == "cpu" and not context.faults:
        return CheckResult("skip", "CPUs have no kernel graphs")
    weights = normal(SIZE, SIZE, seed=41, dtype="float32").to(device)
    inputs = [normal(8, SIZE, seed=42 + turn, dtype="float32").to(device) for turn in range(PLAYS)]
    called = [_work(one, weights).cpu() for one in inputs]
    # On a CPU an injected fault is proven by calling the same work again.
    played = [_work(one, weights).cpu() for one in inputs] if device == "cpu" else _play(inputs, weights, device)
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


def _work(values: Tensor, weights: Tensor) -> Tensor:
    return (values @ weights).relu() @ weights


def _play(inputs: list[Tensor], weights: Tensor, device: str) -> list[Tensor]:
    place = inputs[0].clone()
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            _work(place, weights)  # libraries create their handles outside the capture
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = _work(place, weights)
        played = []
        for one in inputs:
            place.copy_(one)
            graph.replay()
            played.append(result.cpu())
    return played
