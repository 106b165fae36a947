"""The pace of a service, measured on a small server of this process; and metrics of engines."""

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.verify.served import Answering, served, service_behind
from verify.checks.serving import requests as pace
from verify.checks.serving.requests import PaceFacts
from verify.checks.serving.requests import collect_pace as collect
from verify.checks.serving.requests import evaluate_pace as evaluate
from verify.serving.samples import TOKENS, is_at_work, samples, totals
from verify.serving.service import Service

BEFORE = {"first token": 0.03, "between tokens": 0.008}
SOUND = PaceFacts(BEFORE, {"first token": 0.04, "between tokens": 0.011}, 3, (0, 1))


class Engine(ThreadingHTTPServer):
    daemon_threads = True
    waiting = 0
    leaks = 0
    opened: tuple[int, ...] = ()


class Handler(Answering):
    server: Engine

    def do_GET(self) -> None:  # noqa: N802 - as http.server names it
        text = '# TYPE\nvllm:num_requests_running{engine="0"} 0.0\nvllm:num_requests_waiting{engine="0"} '
        self.answer(f"{text}{self.server.waiting}\n".encode())

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        body = json.loads(self.received())
        self.server.opened += tuple(os.dup(2) for _ in range(self.server.leaks))
        self.stream([{"choices": [{"text": "a"}]}] * body["max_tokens"])


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(pace, "_idle_s", time.monotonic)  # as if one processor were idle, whatever else runs here
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with served(Engine(("127.0.0.1", 0), Handler)) as server:
        yield server
        for descriptor in server.opened:
            os.close(descriptor)


def service(engine: Engine, prefix: Path, **proof: Any) -> Service:
    made = service_behind(engine, prefix, main_pid=os.getpid(), release="r1")
    kept = {"prompt": "One, two", "tokens": 4, "requests": 2, "first_token_s": 0.03, "inter_token_s": 0.008}
    (prefix / "verify" / "ready.json").write_text(json.dumps({"release": "r1", "pace": kept, **proof}))
    return made


def test_requests_of_the_proof_are_repeated(engine: Engine, tmp_path: Path) -> None:
    found = collect(service(engine, tmp_path))
    assert (found.before, found.requests, found.opened, found.busy) == (BEFORE, 2, (0, 0), None)
    assert found.now.keys() == BEFORE.keys()
    assert evaluate(found).status == "ok"


@pytest.mark.parametrize("proof", [{"release": "r0"}, {"pace": {}}], ids=["another release", "no figures"])
def test_without_figures_of_this_release_nothing_is_compared(
    engine: Engine, tmp_path: Path, proof: dict[str, Any]
) -> None:
    found = collect(service(engine, tmp_path, **proof))
    assert found.before == {}
    assert evaluate(found).reason.endswith("the last green run kept no figures")


def test_descriptors_that_each_request_leaves_are_a_failure(engine: Engine, tmp_path: Path) -> None:
    engine.leaks = 8  # more than what other tests of this process may have left to close
    outcome = evaluate(collect(service(engine, tmp_path)))
    assert outcome.status == "fail"
    assert re.fullmatch(r"\d+ descriptors stayed open after 4 requests", outcome.reason)


def test_a_service_at_work_is_not_compared(engine: Engine, tmp_path: Path) -> None:
    engine.waiting = 1
    assert collect(service(engine, tmp_path)).busy == "it answered other requests at the same time"


def test_processors_that_others_keep_busy_are_named(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_idle_s", lambda: 0.0)
    monkeypatch.setattr(Service, "cpu_seconds", lambda _: 0.0)
    assert collect(service(engine, tmp_path)).busy == "other programs kept 100% of the processors busy at the same time"


@pytest.mark.parametrize(
    ("now", "status", "words"),
    [
        ({}, "ok", "first token 40.0 ms, between tokens 11.0 ms; about as fast as in the last green run"),
        ({"between tokens": 0.027}, "ok", ""),  # 3.4 times, and less than 20 ms more
        ({"between tokens": 0.03}, "warn", "between tokens 30.0 ms, 3.8 times the 8.0 ms of the last green run"),
        ({"between tokens": 0.36}, "fail", "between tokens 360.0 ms, 45.0 times"),
        ({"first token": 0.2}, "ok", ""),
        ({"first token": 0.5}, "fail", "first token 500.0 ms, 16.7 times the 30.0 ms of the last green run"),
    ],
)
def test_a_pace_is_judged_by_its_ratio_and_by_the_seconds_that_it_costs(
    now: dict[str, float], status: str, words: str
) -> None:
    outcome = evaluate(replace(SOUND, now={**SOUND.now, **now}))
    assert outcome.status == status, outcome
    assert words in outcome.reason


def test_a_slow_pace_on_a_busy_host_is_no_finding_and_descriptors_of_both_rounds_are() -> None:
    busy = replace(
        SOUND, now={"first token": 0.9, "between tokens": 0.35}, busy="it answered other requests at the same time"
    )
    outcome = evaluate(busy)
    assert outcome.status == "ok"
    assert outcome.reason.endswith("not compared with the last green run: it answered other requests at the same time")
    assert evaluate(replace(busy, opened=(3, 4))).status == "fail"
    assert evaluate(replace(busy, opened=(9, 0))).status == "ok"


METRICS = (
    "# HELP vllm:prompt_tokens_total Prompt tokens.\n"
    'vllm:prompt_tokens_total{engine="0"} 10.0\nvllm:prompt_tokens_total{engine="1"} 5e0\n'
    'vllm:generation_tokens_total{engine="0"} 2.0\nvllm:iteration_tokens_total_sum{engine="0"} 99.0\n'
    'http_requests_total{handler="/v1/{\\"model}",status="5xx"} 3.0\nprocess_open_fds 12\n'
)


def test_labels_are_added_and_other_metrics_ignored() -> None:
    assert totals(METRICS, (*TOKENS, "missing")) == dict(zip((*TOKENS, "missing"), (15.0, 2.0, 0.0), strict=True))


def test_labels_may_contain_braces_and_quotes_or_be_missing() -> None:
    assert samples(METRICS)[-2:] == [
        ("http_requests_total", 'handler="/v1/{\\"model}",status="5xx"', 3.0),
        ("process_open_fds", "", 12.0),
    ]


@pytest.mark.parametrize(
    ("metric", "works"), [("num_requests_running", True), ("num_requests_waiting", True), ("num_preemptions", False)]
)
def test_an_engine_with_requests_is_at_work(metric: str, works: bool) -> None:
    assert is_at_work(f'vllm:{metric}{{engine="0"}} 1.0\n') is works
