"""serving.answer: response and correctness of the service's answers."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verify.records import CheckContext, CheckResult, Figure
from verify.serving import readiness_proof
from verify.serving.answers import (
    Answer,
    against_last,
    against_model,
    against_reference,
    against_text,
    dtype_of,
    forced,
    greedy,
    tokens_against_last,
    tokens_done,
)
from verify.serving.client import Client, NoAnswerError, RequestError
from verify.serving.processes import STOPPED, Process, listeners, read_all
from verify.serving.service import Service
from verify.tables import table

ANEW = "restart it: ./firstlight serve; see its log: ./firstlight doctor --host NAME"
FILES = "./firstlight provision creates or sends the model's files again"
WRONG = "do not serve with it: ./firstlight provision, then ./firstlight verify --level full"


Compared = tuple[dict[str, str | None], str | None]
"""What the answers were compared with and the problems found; why the model itself cannot be computed."""


@dataclass(frozen=True)
class AnswerFacts:
    """Observations on the host."""

    stopped: tuple[Process, ...] = ()
    """Processes that a signal has stopped; nothing was requested then."""
    problem: str | None = None
    """Why there is no answer."""
    is_silent: bool = False
    """Whether it sent nothing within the limit."""
    works_for_others: bool = False
    """Whether its own counters changed during that time."""
    compared: Mapping[str, str | None] = field(default_factory=dict)
    """What the answers were compared with, and the problems found."""
    unread: str | None = None
    """Why the model itself cannot be computed: a problem of its files."""
    seconds: float = 0.0
    evidence: Mapping[str, Any] = field(default_factory=dict)


STAND_IN = (
    {"tokens": [5, 6], "gaps": [1.0, 1.0], "runners_up": [1, 1], "logprobs": [-0.1, -0.1]},
    Answer((5, 6), (-0.1, -0.1)),
)
"""A reference and an equal answer, on which an injected fault is proven."""


def run(context: CheckContext) -> CheckResult:
    if context.service is not None and not context.faults:
        service = context.service
        if not listeners(int(service.readiness["port"]), ()):
            return CheckResult("skip", "nothing listens: see serving.unit and serving.process")
        return evaluate(collect(service))
    reference, answer = STAND_IN
    if "wrong-result" in context.faults:
        answer = replace(answer, tokens=(5, 7))
    return evaluate(AnswerFacts(compared={"the reference": against_reference(answer, reference, "float32")}))


def collect(service: Service) -> AnswerFacts:
    """Request answers, unless a process of the service is stopped."""
    processes = read_all(service.pids()) if service.main_pid else ()
    stopped = tuple(process for process in processes if process.state in STOPPED)
    if stopped:
        return AnswerFacts(stopped=stopped)
    key, limits = service.api_key(), table("serving")["answer"]
    dtype = dtype_of(readiness_proof.attention_notes(service, processes))
    compare = _builtin if service.readiness.get("reference") else _users
    began, evidence = time.monotonic(), {"number type": dtype}
    facts = AnswerFacts()
    # An engine at work gets a second, longer one: it may compile code for the first request of its kind, or serve others first.
    for silence_s in (limits["silence_s"], limits["working_silence_s"]):
        client = Client(service, silence_s)
        try:
            compared, unread = compare(service, client, key, dtype, evidence)
        except NoAnswerError as silence:
            works_for_others, cores = _watch(client, key)
            seconds = time.monotonic() - began
            facts = AnswerFacts(
                problem=str(silence), is_silent=True, works_for_others=works_for_others, seconds=seconds
            )
            if not works_for_others and cores < limits["working_cores"]:
                break
        except RequestError as problem:
            return AnswerFacts(problem=str(problem))
        else:
            return AnswerFacts(compared=compared, unread=unread, seconds=time.monotonic() - began, evidence=evidence)
    return facts


def _builtin(service: Service, client: Client, key: str | None, dtype: str, evidence: dict[str, Any]) -> Compared:
    """Compare with the stored reference, and with the model itself on a random prompt."""
    limits = table("serving")["answer"]
    reference = json.loads(Path(service.readiness["reference"]).read_text())
    answer = greedy(client, reference["prompt"], limits["tokens"], key)
    compared = {"the reference": against_reference(answer, reference, dtype)}
    from verify.serving import small_llama  # noqa: PLC0415 - torch, which the answers of other models do not need

    try:
        model = small_llama.load(Path(service.readiness["model_folder"]))
    except (OSError, ValueError) as damage:
        return compared, str(damage)
    usable = model.config["vocab_size"] // 2  # the first half has no special token
    prompt = [random.randrange(usable) for _ in range(limits["new_prompt"])]  # noqa: S311 - no secret
    fresh = greedy(client, prompt, limits["new_tokens"], key)
    evidence |= {"prompt": prompt, "tokens": fresh.tokens}
    tokens = [*prompt, *fresh.tokens]
    exact = model.logprobs(tokens)[:-1].tolist()
    wrong = against_model(fresh, exact[len(prompt) - 1 :], dtype)
    if wrong is None:
        given = [row[token] for row, token in zip(exact, tokens[1:], strict=True)]
        wrong = against_text(forced(client, tokens, key), given, dtype)
    return {**compared, "the model in float64": wrong}, None


def _users(service: Service, client: Client, key: str | None, dtype: str, evidence: dict[str, Any]) -> Compared:
    """Compare with the last green run, if it kept answers."""
    path = service.prefix / "verify" / f"logprobs-{Path(service.readiness['model_folder']).name}.json"
    try:
        last = json.loads(path.read_text())
        text = last["prompt"]
    except (OSError, ValueError, KeyError):
        last, text = None, "The telescope saw its first light."
    answer = greedy(client, text, table("serving")["answer"]["tokens"], key)
    evidence["tokens"] = answer.tokens
    if last is None:
        return {}, None

    def rival(tokens: Any) -> float:
        return forced(client, [*client.post("/tokenize", {"prompt": text}, key)["tokens"], *tokens], key)[-1]

    wrong = against_last(forced(client, text, key), last, str(service.readiness.get("release")))
    return {"the last green run": wrong or tokens_against_last(answer, last, dtype, rival)}, None


def _watch(client: Client, key: str | None) -> tuple[bool, float]:
    """Return whether the engine processes tokens for any request, and how many cores its processes keep busy."""
    watch_s = table("serving")["answer"]["watch_s"]
    watching = replace(client, silence_s=watch_s)
    before = _tokens(watching, key)
    cores = client.service.cores(watch_s)
    after = _tokens(watching, key)
    return before is not None and after is not None and after > before, cores


def _tokens(client: Client, key: str | None) -> float | None:
    try:
        return tokens_done(client.text("/metrics", key))
    except RequestError:
        return None


def evaluate(facts: AnswerFacts) -> CheckResult:
    """Report stopped processes and frozen engines as such, and wrong answers with what they were compared with."""
    figures = (Figure("answers", facts.seconds, "s"),)
    evidence = {**facts.evidence, "compared with": list(facts.compared), "problem": facts.problem}
    if facts.stopped:
        titles = " and ".join(f"{one.title} (state {one.state})" for one in facts.stopped)
        pids = " ".join(str(one.pid) for one in facts.stopped)
        text = f"no request is answered: a signal has stopped {titles}"
        return CheckResult(
            "fail", text, figures, evidence, f"continue it: kill -CONT {pids}; or ./firstlight provision"
        )
    if facts.is_silent and facts.works_for_others:
        text = f"its engine answers others and left this request waiting: {facts.problem}"
        return CheckResult(
            "warn", text, figures, evidence, "check again when fewer requests wait: /metrics counts them"
        )
    if facts.problem:
        text = f"its engine is frozen: {facts.problem}" if facts.is_silent else f"it does not answer: {facts.problem}"
        return CheckResult("fail", text, figures, evidence, ANEW)
    wrong = [f"its answer differs from {what}: {text}" for what, text in facts.compared.items() if text]
    if wrong or facts.unread:
        text = "; ".join([*wrong, *filter(None, [facts.unread])])
        return CheckResult("fail", text, figures, evidence, WRONG if wrong else FILES)
    if not facts.compared:
        return CheckResult(
            "ok",
            f"it answers after {facts.seconds:.1f} s; no green run kept answers to compare with",
            figures,
            evidence,
        )
    text = f"its greedy answers match {' and '.join(facts.compared)}, after {facts.seconds:.1f} s"
    return CheckResult("ok", text, figures, evidence)
