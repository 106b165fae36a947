"""serving.pace: the speed of single requests compared with the last green run of this release, and descriptors that requests leave open."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from verify.files import read_json
from verify.records import CheckContext, CheckResult, Figure, Status
from verify.serving.answers import GREEDY
from verify.serving.client import Client, RequestError
from verify.serving.processes import listeners
from verify.serving.resource_usage import open_descriptors
from verify.serving.samples import is_at_work
from verify.serving.service import Service
from verify.serving.vectors import vectors
from verify.tables import table

NAMES = {"first token": "first_token_s", "between tokens": "inter_token_s"}
"""Figures, and their names in the proof of ready.pyz."""
REMEDY = "look what slows it down: ./firstlight doctor --limit NAME; ./firstlight serve restarts it"


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


def run(context: CheckContext) -> CheckResult:
    service = context.service
    if service is None or context.faults:
        before = {"first token": 0.05, "between tokens": 0.01}
        return evaluate(PaceFacts(before, {"first token": 0.4, "between tokens": 0.35}, 3))
    if not listeners(int(service.readiness["port"]), ()):
        return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
    try:
        return evaluate(collect(service))
    except RequestError as problem:
        return CheckResult("skip", f"it does not answer: see serving.answer ({problem})")


def collect(service: Service) -> PaceFacts:
    """Send two rounds of the requests that the proof of the service sent. Raises RequestError."""
    proof = read_json(service.prefix / "verify" / "ready.json")
    kept: Mapping[str, Any] = proof.get("pace") or {}
    same = proof.get("release") == service.readiness.get("release")
    before = {name: kept[key] for name, key in NAMES.items() if same and kept.get(key)}
    prompt = kept.get("prompt", "One, two, three, four,")
    body = {"prompt": prompt, "max_tokens": kept.get("tokens", 16)}
    client = Client(service.endpoint, table("serving")["answer"]["silence_s"], service.api_key())
    requests = int(kept.get("requests", 3))
    waiting = is_at_work(client.text("/metrics"))
    ask = (
        partial(_ask, client, body)
        if service.task == "generate"
        else partial(_ask_vector, client, service.task, prompt)
    )
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
    names = list(NAMES) if service.task == "generate" else ["first token"]
    fastest = {name: min(one[place] for one in times) for place, name in enumerate(names)}
    return PaceFacts(before, fastest, requests, (opened[0], opened[1]), busy)


def _ask(client: Client, body: Mapping[str, Any]) -> tuple[float, float]:
    """Return the seconds until the first token of an answer, and between its tokens."""
    asked = time.monotonic()
    events = client.stream("/v1/completions", {**body, **GREEDY})
    at = [time.monotonic() for event in events if event.get("choices")]
    if not at:
        raise RequestError("/v1/completions: an answer without a token")
    return at[0] - asked, (at[-1] - at[0]) / max(1, len(at) - 1)


def _ask_vector(client: Client, task: str, prompt: str) -> tuple[float, float]:
    """Return the seconds until the vector of a prompt, and none between tokens."""
    asked = time.monotonic()
    vectors(client, task, [prompt if task == "embed" else [prompt, prompt]])
    return time.monotonic() - asked, 0.0


def _idle_s() -> float:
    """Return the seconds that all processors together were idle since the boot (proc(5): idle and iowait)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")


def evaluate(facts: PaceFacts) -> CheckResult:
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
        return CheckResult(status, "; ".join(problems), tuple(figures), evidence, REMEDY)
    said = ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in facts.now.items())
    known = "about as fast as in the last green run" if facts.before else "the last green run kept no figures"
    if facts.busy and facts.before:
        known = f"not compared with the last green run: {facts.busy}"
    return CheckResult("ok", f"{said}; {known}", tuple(figures), evidence)
