"""Synthetic requests to a service, over real HTTP to a server of this test; tests/fleet/test_releases.py sends them to a real vLLM."""

import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from provision.phases.serve.onhost.ready import log as log_module
from provision.phases.serve.onhost.ready import prove as prove_module
from provision.phases.serve.onhost.ready import sample as module
from provision.phases.serve.onhost.ready.prove import faster
from provision.phases.serve.onhost.ready.sample import ASKED, PROMPTS, acceptance, count, pace, sample
from provision.phases.serve.onhost.ready.service import ReadinessRequest
from tests.serve.conftest import readiness

RequestOf = Callable[[int], ReadinessRequest]
Sample = Callable[..., dict[str, Any]]
WANTED = {"requests": 12, "concurrent": 3, "tokens": 2}
METRICS = """# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 1.2e+01
vllm:request_success_total{engine="0",finished_reason="error",model_name="m"} 1.0
vllm:request_success_created{engine="0",finished_reason="stop",model_name="m"} 1.7e+09
http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 17.0
http_requests_total{handler="/v1/completions",method="POST",status="5xx"} 2.0
"""


class Service(ThreadingHTTPServer):
    """A server with a given answer for each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[str] = []
        self.longest = 10_000
        """Characters of a prompt that is not refused."""
        self.keys: set[str | None] = set()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_arguments: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        self.answer(200, METRICS)

    def do_POST(self) -> None:
        self.server.keys.add(self.headers["Authorization"])
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kind = self.server.answers.pop() if self.server.answers else "good"
        if kind == "500":
            self.send_error(500)
        elif len(body["prompt"]) > self.server.longest:
            error = {"message": "This model's maximum context length is 128 tokens.", "type": "BadRequestError"}
            self.answer(400, json.dumps({"error": error | {"code": 400}}))
        elif body.get("stream"):
            self.stream(kind)
        else:
            top = [{"token_id:7": -0.1, "token_id:8": -2.5}, {"token_id:8": -1.0, "token_id:9": -1.25}]
            found = {"tokens": ["token_id:7", "token_id:9"], "token_logprobs": [-0.1, -1.25], "top_logprobs": top}
            self.answer(200, json.dumps({"choices": [{"logprobs": found}]}))

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4000")
        self.end_headers()
        reason = "error" if kind == "error" else "length"
        for each in {"empty": [], "broken": [None]}.get(kind, [None, reason]):
            choice = {"text": "x", "finish_reason": each}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        if kind == "broken":
            self.wfile.write(b'data: {"error": {"message": "EngineCore died"}}\n\n')
        else:
            self.wfile.write(b"data: [DONE]\n\n".ljust(4000))


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def request_of(tmp_path: Path) -> RequestOf:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/service.env").write_text("VLLM_API_KEY=sk-only-for-this-test\n")
    return lambda port: readiness(tmp_path, port=port)


@pytest.fixture
def sampled(service: Service, request_of: RequestOf) -> Sample:
    """Return a function that sends the requests of a round to the service."""
    return lambda **more: sample(request_of(service.server_port), WANTED | more)


def test_answers_are_counted_and_timed(service: Service, sampled: Sample) -> None:
    found = sampled()
    assert (found["sent"], found["failed"], len(found["first_token_s"])) == (12, 0, 12)
    assert all(0 < seconds < module.TIMEOUT_S for seconds in found["first_token_s"])
    assert len(found["inter_token_s"]) == 12
    assert all(0 <= seconds < module.TIMEOUT_S for seconds in found["inter_token_s"])
    assert found["counters"] == found["counters_before"] == {"finished": 17.0, "failed": 2.0}
    assert service.keys == {"Bearer sk-only-for-this-test"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("500", "/v1/completions: status 500"),
        ("error", "an answer ended with finish_reason `error`"),
        ("broken", "/v1/completions: the server broke off"),
        ("empty", "an answer without a token"),
    ],
)
def test_each_kind_of_failure_counts_and_is_named(service: Service, sampled: Sample, kind: str, reason: str) -> None:
    service.answers = [kind] * 2
    found = sampled()
    assert (found["sent"], found["failed"], len(found["first_token_s"])) == (12, 2, 10)
    assert found["reasons"][0].startswith(reason)


def test_answers_of_a_replay_have_each_token_with_the_one_in_second_place(
    sampled: Sample, request_of: RequestOf
) -> None:
    found = sampled(replay=2)["answers"]
    assert len(found) == len(PROMPTS)
    assert found[0] == {
        "tokens": [7, 9],
        "logprobs": [-0.1, -1.25],
        "runners_up": [8, 8],
        "leads": [pytest.approx(2.4), pytest.approx(-0.25)],
    }
    gone = sample(request_of(1), {**WANTED, "requests": 1, "replay": 2})
    assert gone["answers"] == [None] * len(PROMPTS)
    assert gone["left_out"]["8"].endswith("/v1/completions: [Errno 111] Connection refused")


def test_a_text_that_the_server_refuses_has_the_reason_of_the_server(service: Service, sampled: Sample) -> None:
    service.longest = 300
    found = sampled(replay=2)
    assert [answer is None for answer in found["answers"]] == [False] * 7 + [True]
    assert found["left_out"] == {"8": "/v1/completions: status 400: This model's maximum context length is 128 tokens."}
    assert found["failed"] == 0, "no request of clients"


def test_no_request_is_begun_after_the_time_of_a_round(sampled: Sample) -> None:
    found = sampled(seconds=0)
    assert (found["sent"], found["failed"], len(found["first_token_s"])) == (3, 0, 3), "those that began at once"


def test_a_server_that_is_gone_fails_every_request(request_of: RequestOf) -> None:
    found = sample(request_of(1), WANTED)
    assert (found["sent"], found["failed"], found["counters"]) == (12, 12, {})


def test_a_pace_is_that_of_the_fastest_request_and_none_where_one_failed(
    service: Service, request_of: RequestOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([(0.3, 0.02), (0.2, 0.04), (0.4, None)])
    monkeypatch.setattr(module, "one", lambda *_: next(times))
    assert pace(request_of(1)) == {**ASKED, "requests": 3, "first_token_s": 0.2, "inter_token_s": 0.02}
    monkeypatch.setattr(module, "PACE_S", 0.0)
    monkeypatch.setattr(module, "one", lambda *_: (9.0, 0.5))
    assert pace(request_of(1))["requests"] == 1
    monkeypatch.undo()
    assert pace(request_of(service.server_port))["requests"] == 3
    service.answers = ["500"]
    assert pace(request_of(service.server_port)) == {}


def test_a_release_keeps_its_best_pace(tmp_path: Path) -> None:
    kept, now = tmp_path / "ready.json", {**ASKED, "first_token_s": 0.3, "inter_token_s": 0.01}
    assert faster(now, kept, "r1") == now
    kept.write_text(json.dumps({"release": "r1", "pace": {**ASKED, "first_token_s": 0.2, "inter_token_s": 0.02}}))
    assert faster(now, kept, "r1") == {**ASKED, "first_token_s": 0.2, "inter_token_s": 0.01}
    assert faster({}, kept, "r1") == {}
    assert faster(now, kept, "r2") == now
    kept.write_text(json.dumps({"release": "r1", "pace": {"prompt": "Another", "first_token_s": 0.1}}))
    assert faster(now, kept, "r1") == now


def test_metrics_without_requests_are_no_counters() -> None:
    assert count("# nothing\nvllm:num_requests_running 0.0\n") == {}


JOURNAL = """(APIServer pid=7) ERROR 11-27 00:39:06 [serving.py:929] Error in chat completion stream generator.
(APIServer pid=7) ERROR 11-27 00:39:06 [serving.py:929] Traceback (most recent call last):
(APIServer pid=7) ERROR 11-27 00:39:08 [serving.py:500] Error in completion stream generator.
(APIServer pid=7) INFO 11-27 00:39:09 [launcher.py:90] Shutting down
"""


def test_streams_that_the_server_ends_with_an_error_are_read_from_its_log(
    request_of: RequestOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "journalctl").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/asked\ncat <<EOF\n{JOURNAL}EOF\n')
    (tmp_path / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert log_module.stream_errors(request_of(1), 1000.25, 2000.5) == 2
    asked = (tmp_path / "asked").read_text()
    assert "--since=@1000.250000 --until=@2000.500000 --unit firstlight-vllm.service" in asked


def test_streams_that_ended_with_an_error_are_counted_where_that_is_asked(
    request_of: RequestOf, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted: list[float] = []

    def count(_: ReadinessRequest, since_s: float, until_s: float) -> int:
        counted.append(round(until_s - since_s))
        return 2

    monkeypatch.setattr(prove_module, "stream_errors", count)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asdict(request_of(1)) | {"errors_s": 300.0})))
    assert prove_module.main() == 0
    assert (json.loads(capsys.readouterr().out)["stream_errors"], counted) == (2, [300])


def test_the_log_of_supervisor_is_read_by_its_times(request_of: RequestOf, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/vllm.log").write_text(JOURNAL)
    request = replace(request_of(1), supervisor="supervisor")
    begin = time.mktime((2026, 11, 27, 0, 39, 7, 0, 0, -1))
    assert log_module.stream_errors(request, begin, begin + 60) == 1
    assert log_module.stream_errors(request, begin - 60, begin + 60) == 2
    assert log_module.stream_errors(request, begin + 60, begin + 120) == 0


def test_the_acceptance_rate_of_speculative_decoding_is_read() -> None:
    """Lines of vLLM 0.32.0 with two engines."""
    text = "".join(
        f'vllm:spec_decode_num_{name}_tokens_total{{engine="{engine}",model_name="m"}} {value}\n'
        for engine, draft, accepted in ((0, 30.0, 20.0), (1, 10.0, 5.0))
        for name, value in (("draft", draft), ("accepted", accepted))
    )
    per_position = 'vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 9.0\n'
    assert acceptance(text + per_position) == [
        "speculative decoding: 62% of 40 drafted tokens accepted since the server started"
    ]
    assert acceptance(text.replace("30.0", "0.0").replace("10.0", "0.0")) == acceptance("") == []
