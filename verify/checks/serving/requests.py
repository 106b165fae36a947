"""serving.contract, load, pace and soak: what requests show of the running service."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.records import CheckContext, CheckResult, Figure, Status, first_few
from verify.serving import comparison, service_plan
from verify.serving.client import Client, NoAnswerError, RequestError
from verify.serving.contract import Asker, Findings, ask_all
from verify.serving.expectations import Answer, Choice, deviations
from verify.serving.processes import listeners
from verify.serving.samples import is_at_work
from verify.serving.service import Service
from verify.serving.soak import MIB, Sample, SoakSamples, Usage, evaluate_soak, open_descriptors, soak_service
from verify.serving.vectors import times_of
from verify.tables import table

DO_NOT_SERVE = "do not serve with it: ./firstlight provision, then ./firstlight verify --level full; its log: ./firstlight doctor --limit NAME"


def contract(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        choice = Choice("first light", finish_reason="stop")
        answers = [Answer({"stop": stop}, (choice,), {}) for stop in (None, " light")]
        return evaluate_contract(Findings(tuple(deviations({"expects": ["stopped"]}, answers)), ("stop",)), 0.0)
    if not listeners(int(service.readiness["port"])):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    began = time.monotonic()
    try:
        found = collect_contract(service)
    except NoAnswerError as silence:
        text = f"a request of another kind than those of serving.answer waited: {silence}"
        return CheckResult("warn", text, remedy="check again when fewer requests wait: /metrics counts them")
    return evaluate_contract(found, time.monotonic() - began)


def collect_contract(service: Service) -> Findings:
    """Ask the service what applies to its model. Raises NoAnswerError."""
    argv = service_plan.read(service).argv
    asker = Asker(
        Client(service.endpoint, table("contract")["silence_s"], service.api_key()),
        is_builtin=bool(service.readiness.get("reference")),
        has_reasoning="--reasoning-parser" in argv,
        task=service.task,
    )
    return ask_all(asker, has_tools="--tool-call-parser" in argv)


def evaluate_contract(found: Findings, seconds: float) -> CheckResult:
    """Fail on every deviation; what the server does not offer for this model is evidence alone."""
    figures = (Figure("kinds of requests", len(found.checked), "count"), Figure("answers", seconds, "s"))
    evidence = {
        "kinds of requests": found.checked,
        "deviations": found.deviations,
        "not offered": dict(found.refused),
        "not asked in time": found.late,
    }
    if found.deviations:
        return CheckResult("fail", first_few(found.deviations, 3, more="; and"), figures, evidence, DO_NOT_SERVE)
    others = {"not offered for this model": tuple(found.refused), "not tested in time": found.late}
    rest = "".join(f"; {text}: {', '.join(names)}" for text, names in others.items() if names)
    text = f"{len(found.checked)} kinds of requests are answered correctly{rest}"
    return CheckResult("ok" if found.checked else "warn", text, figures, evidence)


NAMES = {"ttft": "first token", "itl": "between tokens"}
STAND_IN = {"max_concurrency": 1, "num_prompts": 8, "completed": 8, "duration": 1.0, "output_throughput": 256.0}
"""A result without problems, on which an injected fault is proven if there is no service."""


def load(context: CheckContext) -> CheckResult:
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
        results = list(comparison.under_load(service, load))
    if "failed-requests" in context.faults:
        results = [{**result, "completed": result["completed"] - 1} for result in results]
    evidence = {"tool": "vllm bench serve", "endpoint": service.url if service else None, "load": load}
    return evaluate_load(results, evidence)


def evaluate_load(results: Sequence[Mapping[str, Any]], evidence: Mapping[str, Any]) -> CheckResult:
    """Evaluate the tool's documents, one per concurrency. Requests without an answer are a failure; speeds are recorded."""
    bound = table("serving")["failed"]
    figures, failed, requests = [], 0, 0
    for result in results:
        at_once = _at_once(result)
        figures.append(Figure(f"output, {at_once}", result["output_throughput"], "tokens/s"))
        for metric, name in NAMES.items():
            for percent in comparison.PERCENTILES:
                value = result.get(f"p{percent}_{metric}_ms")
                if value is not None:
                    figures.append(Figure(f"{name} p{percent}, {at_once}", value, "ms"))
        failed += result["num_prompts"] - result["completed"]
        requests += result["num_prompts"]
    share = failed / requests if requests else 1.0
    most, source = bound["ceiling"], bound["source"]
    figures.append(Figure("requests without an answer", share, "share", ceiling=most, source=source))
    kept = {**evidence, "requests": requests, "seconds": [result["duration"] for result in results]}
    if not share <= most:
        text = f"{failed} of {requests} requests got no answer"
        remedy = "its log shows the reason: ./firstlight doctor --limit NAME"
        return CheckResult("fail", text, tuple(figures), kept, remedy)
    best = max(results, key=lambda result: result["output_throughput"])
    text = f"{requests} requests answered; at most {best['output_throughput']:.0f} tokens/s, {_at_once(best)}"
    if first := results[0].get("p50_ttft_ms"):
        alone = ", alone" if results[0]["max_concurrency"] == 1 else ""
        text += f"; first token after {first:.0f} ms (median{alone})"
    return CheckResult("ok", text, tuple(figures), kept)


def _at_once(result: Mapping[str, Any]) -> str:
    rate = result.get("rate")
    return f"{rate:g} a second" if rate else f"{result['max_concurrency']} at once"


PACES = {"first token": "first_token_s", "between tokens": "inter_token_s"}
"""Figures, and their names in the proof of ready.pyz."""
SLOWED_DOWN = "look what slows it down: ./firstlight doctor --limit NAME; ./firstlight serve restarts it"


@dataclass(frozen=True)
class PaceFacts:
    """Observations on the host."""

    before: Mapping[str, float]
    """Seconds of the last green run of this release, by figure; empty if it kept none."""
    now: Mapping[str, float]
    """Seconds of the fastest request, by figure."""
    requests: int
    """Number of requests in each of two rounds."""
    opened: tuple[int, int] = (0, 0)
    """How many more descriptors the service had after each round."""
    busy: str | None = None
    """Why the figures say nothing of the service."""


def pace(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        before = {"first token": 0.05, "between tokens": 0.01}
        return evaluate_pace(PaceFacts(before, {"first token": 0.4, "between tokens": 0.35}, 3))
    if not listeners(int(service.readiness["port"])):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    try:
        return evaluate_pace(collect_pace(service))
    except RequestError as problem:
        return CheckResult("skip", f"it does not answer: see serving.answer ({problem})")


def collect_pace(service: Service) -> PaceFacts:
    """Send two rounds of the requests that the proof of the service sent. Raises RequestError."""
    proof = read_json(service.prefix / "verify" / "ready.json")
    kept: Mapping[str, Any] = proof.get("pace") or {}
    same = proof.get("release") == service.readiness.get("release")
    before = {name: kept[key] for name, key in PACES.items() if same and kept.get(key)}
    prompt, tokens = kept.get("prompt", "One, two, three, four,"), kept.get("tokens", 16)
    client = Client(service.endpoint, table("serving")["answer"]["silence_s"], service.api_key())
    requests = int(kept.get("requests", 3))
    waiting = is_at_work(client.text("/metrics"))
    ask = partial(times_of, client, service.task, prompt, tokens)
    ask()  # what the first request opens or loads stays
    spent, began, idle = service.cpu_seconds(), time.monotonic(), _idle_s()
    times, opened, files = [], list[int](), open_descriptors(service)
    for _ in range(2):
        times += [ask() for _ in range(requests)]
        now = open_descriptors(service)
        opened, files = [*opened, now - files], now
    capacity = (time.monotonic() - began) * (os.cpu_count() or 1)
    others = 1 - (_idle_s() - idle + service.cpu_seconds() - spent) / capacity
    busy = "it answered other requests at the same time" if waiting or is_at_work(client.text("/metrics")) else None
    if others > table("serving")["pace"]["others"]:
        busy = f"other programs kept {others:.0%} of the processors busy at the same time"
    names = list(PACES) if service.task == "generate" else ["first token"]
    fastest = {name: min(one[place] or 0.0 for one in times) for place, name in enumerate(names)}
    return PaceFacts(before, fastest, requests, (opened[0], opened[1]), busy)


def _idle_s() -> float:
    """Return the seconds that all processors together were idle since the boot (proc(5): idle and iowait)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def evaluate_pace(facts: PaceFacts) -> CheckResult:
    """Fail on descriptors that stay open and on figures far beyond those of the last green run; warn of figures beyond them."""
    rules = table("serving")["pace"]
    figures, problems, most = [], [], 1.0
    for name, value in facts.now.items():
        before = facts.before.get(name)
        ceiling = None if before is None else max(rules["warn"] * before, before + rules["least"][name])
        figures.append(Figure(name, value * 1000, "ms", ceiling=None if ceiling is None else ceiling * 1000))
        if before and ceiling and value > ceiling and not facts.busy:
            most = max(most, value / before)
            was = f"{value / before:.1f} times the {before * 1000:.1f} ms of the last green run"
            problems.append(f"{name} {value * 1000:.1f} ms, {was}")
    figures.append(Figure("descriptors left open", sum(facts.opened), "count"))
    evidence = {"before": facts.before, "now": facts.now, "opened": facts.opened, "busy": facts.busy}
    leaks = min(facts.opened) >= facts.requests
    if leaks:
        problems.insert(0, f"{sum(facts.opened)} descriptors stayed open after {2 * facts.requests} requests")
    if problems:
        status: Status = "fail" if leaks or most >= rules["fail"] else "warn"
        return CheckResult(status, "; ".join(problems), tuple(figures), evidence, SLOWED_DOWN)
    said = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in facts.now.items())
    known = "about as fast as in the last green run" if facts.before else "the last green run kept no figures"
    if facts.busy and facts.before:
        known = f"not compared with the last green run: {facts.busy}"
    return CheckResult("ok", f"{said}; {known}", tuple(figures), evidence)


LEAKING = SoakSamples(
    80, [], [Sample(turn, 4 * turn, Usage((1024 + 2 * turn) * MIB, None), 99 + turn) for turn in range(20)]
)
"""Of a service that keeps half a MiB and one in four connections of its requests."""


def soak(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        return evaluate_soak(LEAKING, "")
    if not listeners(int(service.readiness["port"])):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    try:
        return collect_soak(service)
    except RequestError as problem:
        return CheckResult("skip", f"it does not answer: see serving.answer ({problem})")


def collect_soak(service: Service) -> CheckResult:
    """Soak the service and evaluate it. Growth while it answers other requests is a warning. Raises RequestError."""
    client = Client(service.endpoint, table("serving")["answer"]["silence_s"], service.api_key())
    was_at_work = is_at_work(client.text("/metrics"))
    seen = soak_service(service, seconds=table("soak")["check"]["seconds"], between=lambda _: None, pause_s=0.0)
    outcome = evaluate_soak(seen, service.name)
    if outcome.status == "error":
        return replace(outcome, status="skip")
    if outcome.status == "fail" and not seen.failed and (was_at_work or is_at_work(client.text("/metrics"))):
        return replace(outcome, status="warn", reason=f"{outcome.reason}; it answered other requests at the same time")
    return outcome
