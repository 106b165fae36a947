"""A soak distinguishes growth from noise, and detects a service that leaves requests unanswered."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from verify.serving.resource_usage import Usage
from verify.serving.service import Service
from verify.serving.soak import SoakSamples, evaluate, growth, soak
from verify.tables import table

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
RULES = table("soak")["memory"]
MIB = 1 << 20

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
kept, answered = [], 0
class Answering(BaseHTTPRequestHandler):
    def do_POST(self):
        global answered
        answered += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        kept.append(bytearray(b"x") * int(sys.argv[1]))
        right = self.headers["Authorization"] == "Bearer the-key" and answered % int(sys.argv[2])
        body = json.dumps({"choices": []} if right else {"error": "overloaded"}).encode()
        self.send_response(200 if right else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): ...
server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
print(server.server_address[1], flush=True)
server.serve_forever()
"""
"""A server of completions that keeps a number of bytes of each request and leaves every n-th request unanswered."""


def noise(count: int, *, slope: float, amplitude: float = 4 * MIB) -> list[tuple[float, float]]:
    """Return one sample per second: bytes around a line, always the same ones."""
    chance = random.Random(5)
    return [(float(at), 2e9 + slope * at + chance.uniform(-amplitude, amplitude)) for at in range(count)]


def test_a_leak_in_noise_is_growth_and_noise_alone_is_not() -> None:
    still, leak = growth(noise(600, slope=0.0), RULES), growth(noise(600, slope=0.2 * MIB), RULES)
    assert still is not None
    assert leak is not None
    assert not still.is_real(RULES)
    assert leak.is_real(RULES)
    assert leak.slope == pytest.approx(0.2 * MIB, rel=0.05)
    assert leak.mib_per_hour == pytest.approx(720, rel=0.05)


def test_a_step_during_warm_up_and_little_growth_do_not_count() -> None:
    warmed = [(at, size + (500 * MIB if at > 100 else 0)) for at, size in noise(600, slope=0.0)]
    line = growth(warmed, RULES)
    assert line is not None
    assert not line.is_real(RULES)
    slow = growth([(float(at), 2e9 + 1024.0 * at) for at in range(600)], RULES)  # certain, and 400 KiB in all
    assert slow is not None
    assert not slow.is_real(RULES)


def test_few_samples_are_not_enough() -> None:
    assert growth(noise(9, slope=MIB), RULES) is None
    samples = [(float(at), Usage(MIB, None)) for at in range(9)]
    outcome = evaluate(SoakSamples(36, [], samples), Service(Path(), {"unit": "x"}, 1))
    assert (outcome.status, outcome.reason) == (
        "error",
        "9 samples of memory are too few to detect growth: after a warm-up of33% of them 8 must be left",
    )
    assert outcome.evidence["samples"]


def test_requests_without_an_answer_fail_a_soak_too_short_for_memory() -> None:
    samples = [(float(at), Usage(MIB, None)) for at in range(9)]
    outcome = evaluate(SoakSamples(36, ["503 overloaded"], samples), Service(Path(), {"unit": "x"}, 1))
    assert (outcome.status, outcome.reason) == ("fail", "1 of 36 requests got no answer: 503 overloaded")


def test_gpu_memory_is_evaluated_in_addition_to_the_hosts() -> None:
    samples = [(float(at), Usage(2 << 30, (60 << 30) + at * 8 * MIB)) for at in range(300)]
    outcome = evaluate(SoakSamples(1200, [], samples), Service(Path(), {"unit": "x"}, 1))
    assert outcome.status == "fail"
    assert "memory of GPUs grows by 28800 MiB an hour" in outcome.reason
    assert "memory of the host" not in outcome.reason


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "service.env").write_text("VLLM_API_KEY=the-key\n")
    keeps, every = request.param
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(keeps), str(every)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    port = int(process.stdout.readline())
    readiness: dict[str, Any] = {"host": "127.0.0.1", "port": port, "served_name": "small", "unit": "its-unit"}
    yield Service(tmp_path, readiness, process.pid)
    process.kill()
    process.communicate()


SECONDS = 3.0


def soaked(service: Service) -> tuple[SoakSamples, list[int]]:
    rounds: list[int] = []
    return soak(service, minutes=SECONDS / 60, between=rounds.append, pause_s=0.02), rounds


@pytest.mark.parametrize("server", [(0, 10**9)], indirect=True)
def test_a_service_that_answers_and_does_not_grow_passes(server: Service) -> None:
    seen, rounds = soaked(server)
    outcome = evaluate(seen, server)
    assert (outcome.status, seen.failed) == ("ok", []), outcome.reason
    assert rounds == list(range(len(seen.samples)))
    assert json.dumps(outcome.as_json())


@pytest.mark.parametrize("server", [(2 * MIB, 10**9)], indirect=True)
def test_a_service_that_grows_with_every_request_fails(server: Service) -> None:
    seen, _ = soaked(server)
    outcome = evaluate(seen, server)
    assert outcome.status == "fail"
    assert "memory of the host grows by" in outcome.reason


@pytest.mark.parametrize("server", [(0, 10)], indirect=True)
def test_a_service_that_leaves_requests_unanswered_fails(server: Service) -> None:
    seen, _ = soaked(server)
    outcome = evaluate(seen, server)
    assert outcome.status == "fail"
    assert f"{len(seen.failed)} of {seen.asked} requests got no answer: /v1/completions: status 503" in outcome.reason


def test_without_torch_a_soak_fails_and_a_length_of_zero_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "verify", "soak", "--prefix", str(tmp_path), "--json", "--minutes"]
    written = tmp_path / "soak.json"
    done = subprocess.run(
        [*command, "0.01", "--write", str(written)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    assert json.loads(written.read_text()) == document
    statuses = {record["id"]: record["status"] for record in document["checks"]}
    assert (done.returncode, statuses["serving.soak"], statuses["kernels.gemm"]) == (2, "skip", "skip")
    refused = subprocess.run([*command, "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (refused.returncode, "it must be greater than 0" in refused.stderr) == (64, True)
