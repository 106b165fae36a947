"""A soak distinguishes growth from noise, and detects a service that leaves requests unanswered or keeps what they took."""

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from verify.checks.serving.requests import soak as run
from verify.cli import soak as command
from verify.records import CheckContext
from verify.serving import soak as resource_usage
from verify.serving.service import Service
from verify.serving.soak import Growth, Sample, SoakSamples, Usage, growth
from verify.serving.soak import evaluate_soak as evaluate
from verify.serving.soak import soak_service as soak
from verify.tables import table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RULES = table("soak")["growth"] | table("soak")["memory"]
MIB = 1 << 20
SECONDS = 3.0

SERVER = """
import json, os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
refused, left_open, waiting = map(int, sys.argv[1:])
answered = 0
class Answering(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, f'vllm:num_requests_waiting{{engine="0"}} {waiting}.0'.encode())
    def do_POST(self):
        global answered
        answered += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        if left_open and not answered % left_open:
            os.dup(2)
        right = self.headers["Authorization"] == "Bearer the-key" and not (refused and not answered % refused)
        self.answer(200 if right else 503, json.dumps({"choices": []} if right else {"error": "overloaded"}).encode())
    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): ...
server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
"""A server of completions. Its arguments: every how many requests it refuses one or leaves a descriptor open (0: never),
and how many requests it says are waiting."""


def noise(count: int, *, slope: float, amplitude: float = 4.0) -> list[tuple[float, float]]:
    """Return one sample per request: MiB around a line, always the same ones."""
    chance = random.Random(5)
    return [(float(at), 2000 + slope * at + chance.uniform(-amplitude, amplitude)) for at in range(count)]


def line(points: list[tuple[float, float]]) -> Growth:
    """Return the line through these samples, which are enough."""
    found = growth(points, RULES)
    assert found is not None
    return found


def test_a_leak_in_noise_is_growth_and_noise_alone_is_not() -> None:
    leak = line(noise(600, slope=0.2))
    assert not line(noise(600, slope=0.0)).is_real
    assert leak.is_real
    assert leak.slope == pytest.approx(0.2, rel=0.05)
    assert leak.span == 401


@pytest.mark.parametrize("step_at", [100, 250, 400, 550])
def test_one_step_does_not_count(step_at: int) -> None:
    """Such as code that is loaded lazily, or the buffers of a first large batch."""
    assert not line([(at, size + (500 if at > step_at else 0)) for at, size in noise(600, slope=0.0)]).is_real


def test_little_growth_does_not_count() -> None:
    assert not line([(float(at), 2000 + 0.001 * at) for at in range(600)]).is_real  # certain, and 0.4 MiB in all


def samples(count: int, *, host: float = 0.0, gpu: float | None = None, descriptors: float = 0.0) -> list[Sample]:
    """Return samples after each request; host and gpu grow by MiB, descriptors by numbers."""
    return [
        Sample(
            float(at),
            at,
            Usage((2048 * MIB) + int(at * host * MIB), None if gpu is None else (60 << 30) + int(at * gpu * MIB)),
            200 + int(at * descriptors),
        )
        for at in range(count)
    ]


def test_few_samples_are_not_enough() -> None:
    assert growth(noise(9, slope=1.0), RULES) is None
    outcome = evaluate(SoakSamples(36, [], samples(9)), "x")
    assert (outcome.status, outcome.reason) == (
        "error",
        "9 samples are too few to detect growth: after a warm-up of 33% of them 8 must be left",
    )
    assert outcome.evidence["samples"]


def test_requests_without_an_answer_fail_a_soak_too_short_for_growth() -> None:
    outcome = evaluate(SoakSamples(36, ["503 overloaded"], samples(9)), "x")
    assert (outcome.status, outcome.reason) == ("fail", "1 of 36 requests got no answer: 503 overloaded")


@pytest.mark.parametrize(
    ("grows", "reason"),
    [
        ({"host": 0.25}, "memory of the host grows by 250.0 MiB with 1,000 requests (50 MiB over 200)"),
        ({"gpu": 8.0}, "memory of GPUs grows by 8,000.0 MiB with 1,000 requests (1600 MiB over 200)"),
        ({"descriptors": 1.0}, "open descriptors grow by 1,000.0 with 1,000 requests (200 over 200)"),
    ],
)
def test_each_growth_is_named_alone(grows: dict[str, float], reason: str) -> None:
    outcome = evaluate(SoakSamples(300, [], samples(300, **grows)), "x")
    assert (outcome.status, outcome.reason) == ("fail", reason)


def test_a_soak_of_a_day_has_a_document_of_a_few_hundred_samples() -> None:
    outcome = evaluate(SoakSamples(40_000, [], samples(40_000)), "x")
    assert outcome.status == "ok"
    assert 400 < len(outcome.evidence["samples"]) <= 500


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    monkeypatch.setattr(resource_usage, "CLOSING_S", 0.02)
    # A clock of rounds, not of seconds: a busy machine has as many samples as an idle one.
    clock = SimpleNamespace(monotonic=itertools.count(0.0, SECONDS / 60).__next__, sleep=time.sleep)
    monkeypatch.setattr("verify.serving.soak.time", clock)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "service.env").write_text("VLLM_API_KEY=the-key\n")
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, *map(str, request.param)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    readiness: dict[str, Any] = {"host": "127.0.0.1", "port": port, "served_name": "small", "unit": "its-unit"}
    yield Service(tmp_path, readiness, process.pid)
    process.kill()
    process.communicate()


@pytest.mark.parametrize("server", [(0, 0, 0)], indirect=True)
def test_each_round_of_a_soak_is_told(server: Service) -> None:
    rounds: list[int] = []
    seen = soak(server, seconds=SECONDS, between=rounds.append, pause_s=0.02)
    assert rounds == list(range(len(seen.samples)))


@pytest.mark.parametrize(
    ("server", "status", "words"),
    [
        ((0, 0, 0), "ok", " requests answered, and neither memory nor open descriptors grow"),
        ((10, 0, 0), "fail", " requests got no answer: /v1/completions: status 503"),
        ((0, 4, 1), "warn", "; it answered other requests at the same time"),
    ],
    indirect=["server"],
)
def test_a_short_soak_is_a_check(server: Service, status: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What grows is found at vLLM's own server in in_vllm/test_served_api.py."""
    monkeypatch.setitem(table("soak")["check"], "seconds", SECONDS)
    outcome = run(CheckContext(level="full", service=server))
    assert outcome.status == status, outcome.reason
    assert words in outcome.reason


def test_nothing_is_soaked_where_nothing_listens(tmp_path: Path) -> None:
    nobody = Service(tmp_path, {"host": "127.0.0.1", "port": 1, "served_name": "small", "unit": "its-unit"}, 1)
    assert run(CheckContext(service=nobody)).reason == "nothing listens: see serving.unit and serving.process"


def test_kernels_of_a_soak_know_the_stack_and_fail_it_where_they_are_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else they compute on the CPU where torch sees no GPU."""
    seen: list[CheckContext] = []

    def run_kernels(_checks: Any, context: CheckContext) -> dict[str, Any]:
        seen.append(context)
        wrong = {"id": "kernels.gemm", "device": None, "status": "fail", "reason": "wrong products"}
        return {"host": "gpu-1", "seconds": 0.0, "checks": [wrong]}

    environment = tmp_path / "envs" / "e1"
    environment.mkdir(parents=True)
    (environment / "stack.json").write_text('{"vllm": {"variant": "cu130"}, "gpus": [0, 1]}')
    (tmp_path / "current").symlink_to(environment)
    (tmp_path / "state.json").write_text('{"environment": "e1", "stack": {"gpus": [1]}}')
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "current"))
    monkeypatch.setattr(command, "run", run_kernels)
    asked = ["--minutes", "1", "--json", "--prefix", str(tmp_path)]
    assert command.main(asked) == 2
    assert [(context.variant, context.stack["gpus"]) for context in seen] == [("cu130", [1])]
    capsys.readouterr()
    assert command.main([*asked, "--write", str(tmp_path / "state.json/soak.json")]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["checks"][0]["reason"] == "once: wrong products"
    assert "soak.json cannot be written" in err


def test_without_torch_a_soak_fails_and_a_length_of_zero_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verify", "soak", "--prefix", str(tmp_path), "--json", "--minutes"]
    written = tmp_path / "soak.json"
    done = subprocess.run(
        [*command, "60", "--write", str(written)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    assert json.loads(written.read_text()) == document
    assert document["checks"][-1]["seconds"] < 60, "it says how long it lasted, not how long it should have"
    statuses = {record["id"]: record["status"] for record in document["checks"]}
    assert (done.returncode, statuses["serving.soak"], statuses["kernels.gemm"]) == (2, "skip", "skip")
    refused = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (refused.returncode, "is not a number above zero" in refused.stderr) == (64, True)
