"""serving.load: load on the running endpoint with vLLM's own tool."""

from collections.abc import Mapping, Sequence
from typing import Any

from verify.records import CheckContext, CheckResult, Figure
from verify.serving import load_benchmark
from verify.tables import table

NAMES = {"ttft": "first token", "itl": "between tokens"}
STAND_IN = {"max_concurrency": 1, "num_prompts": 8, "completed": 8, "duration": 1.0, "output_throughput": 256.0}
"""A result without problems, on which an injected fault is proven if there is no service."""


def run(context: CheckContext) -> CheckResult:
    service = context.service
    serves = service is not None and service.main_pid is not None
    if not serves and not context.faults:
        text = "no service runs from this environment" if service is None else f"{service.name} is stopped"
        return CheckResult("skip", text, remedy="start it: ./firstlight serve")
    if service is not None and service.task != "generate" and not context.faults:
        return CheckResult("skip", "its model makes no text, and this load requests text")
    load = table("serving")["load"]
    results: list[Mapping[str, Any]] = [STAND_IN]
    if service is not None and serves:
        results = list(load_benchmark.measure(service, load))
    if "failed-requests" in context.faults:
        results = [{**result, "completed": result["completed"] - 1} for result in results]
    return evaluate(results, {"tool": "vllm bench serve", "endpoint": service.url if service else None, "load": load})


def evaluate(results: Sequence[Mapping[str, Any]], evidence: Mapping[str, Any]) -> CheckResult:
    """Evaluate the tool's documents, one per concurrency. Requests without an answer are a failure; speeds are recorded."""
    bound = table("serving")["failed"]
    figures, failed, requests = [], 0, 0
    for result in results:
        at_once = _of(result)
        figures.append(Figure(f"output, {at_once}", result["output_throughput"], "tokens/s"))
        for metric, name in NAMES.items():
            for percent in load_benchmark.PERCENTILES:
                value = result.get(f"p{percent}_{metric}_ms")
                if value is not None:
                    figures.append(Figure(f"{name} p{percent}, {at_once}", value, "ms"))
        failed += result["num_prompts"] - result["completed"]
        requests += result["num_prompts"]
    share = failed / requests if requests else 1.0
    figures.append(
        Figure("requests without an answer", share, "share", ceiling=bound["ceiling"], source=bound["source"])
    )
    kept = {**evidence, "requests": requests, "seconds": [result["duration"] for result in results]}
    if not share <= bound["ceiling"]:
        text = f"{failed} of {requests} requests got no answer"
        remedy = "its log shows the reason: ./firstlight doctor --limit NAME"
        return CheckResult("fail", text, tuple(figures), kept, remedy)
    most = max(results, key=lambda result: result["output_throughput"])
    text = f"{requests} requests answered; at most {most['output_throughput']:.0f} tokens/s, {_of(most)}"
    if first := results[0].get("p50_ttft_ms"):
        alone = ", alone" if results[0]["max_concurrency"] == 1 else ""
        text += f"; first token after {first:.0f} ms (median{alone})"
    return CheckResult("ok", text, tuple(figures), kept)


def _of(result: Mapping[str, Any]) -> str:
    rate = result.get("rate")
    return f"{rate:g} a second" if rate else f"{result['max_concurrency']} at once"
