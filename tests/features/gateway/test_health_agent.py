"""The health agent: what it concludes from looks at an engine, and what a real HAProxy makes of its word."""

from __future__ import annotations

import http.client
import math
import signal
import socket
import subprocess
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.settings import Settings
from provision.features.gateway import health_agent
from provision.features.gateway.onhost.health.evaluation import Evaluator, Look
from provision.phases.serve.onhost.ready.service import STREAM_ERROR
from provision.phases.serve.onhost.shared.engine import metrics, processes
from provision.phases.serve.tools import SHARED
from provision.run.served import Served
from tests.features.gateway.running import KEY, Site, running, wait_until
from tests.features.gateway.test_haproxy import installed, read_tokens
from tests.verify.conftest import vllm_python
from verify.tables import table

__all__ = ["installed", "vllm_python"]

HEALTH = tomllib.loads((Path(health_agent.__file__).parent / "onhost/health/health.toml").read_text())
ENGINE = tomllib.loads((SHARED / "engine.toml").read_text())
METRICS = ENGINE["metrics"]
LIMITS = HEALTH["limits"]
STEP: float = LIMITS["look_s"]


def evaluator(*looks: Look) -> Evaluator:
    made = Evaluator(LIMITS, HEALTH["weights"])
    for one in looks:
        made.see(one)
    return made


def row(count: int, first: Look, **each: Any) -> list[Look]:
    """Return looks one after another; a callable value gets the number of its look."""
    return [
        replace(first, at=number * STEP, **{k: v(number) if callable(v) else v for k, v in each.items()})
        for number in range(count)
    ]


def within(seconds: float) -> int:
    """Return the number of looks from 0 to the first at or after so many seconds."""
    return math.ceil(seconds / STEP) + 1


WORKS = Look(at=0.0, progress=(0.0,), running=1.0, engine_cpu_s=0.0, all_cpu_s=0.0)


def test_an_engine_that_makes_tokens_is_up() -> None:
    assert evaluator(*row(200, WORKS, progress=lambda n: (float(n),))).word() == "up 100%"


def test_an_engine_without_requests_is_up_and_is_asked() -> None:
    idle = evaluator(*row(200, replace(WORKS, running=0.0)))
    assert idle.word() == "up 100%"
    assert idle.wants_question()


def test_a_frozen_engine_is_down_within_two_seconds() -> None:
    frozen = row(4, WORKS, is_stopped=True)
    words = [evaluator(*frozen[: count + 1]).word() for count in range(len(frozen))]
    first = next(number for number, word in enumerate(words) if word.startswith("down #frozen"))
    assert frozen[first].at <= 2.0


def test_an_unanswered_question_makes_an_idle_engine_owe_a_token() -> None:
    looks = row(within(10.5), replace(WORKS, running=0.0, is_asked=True))
    assert evaluator(*looks).word().startswith("down #frozen")
    assert not evaluator(*looks).wants_question(), "one question at a time"


def test_an_engine_that_computes_for_long_without_a_token_is_up() -> None:
    busy = row(within(52), WORKS, engine_cpu_s=lambda n: n * STEP * 0.5)
    assert evaluator(*busy).word() == "up 100%"
    for_ever = row(within(63), WORKS, engine_cpu_s=lambda n: n * STEP)
    assert evaluator(*for_ever).word() == "down #no token for 63 s"


def test_a_card_may_compute_for_some_seconds_while_no_process_runs() -> None:
    waiting = row(within(11), WORKS)
    words = [evaluator(*waiting[: count + 1]).word() for count in range(len(waiting))]
    assert {word for look, word in zip(waiting, words, strict=True) if look.at < LIMITS["idle_s"]} == {"up 100%"}
    assert words[-1].startswith("down #frozen")


def test_an_engine_whose_processes_are_unknown_is_given_time() -> None:
    unknown = row(within(52), WORKS, engine_cpu_s=None, all_cpu_s=None)
    assert evaluator(*unknown).word() == "up 100%"


def test_a_stopped_process_counts_although_others_wait_actively() -> None:
    stopped = row(4, WORKS, engine_cpu_s=lambda n: n * STEP, is_stopped=True)
    assert evaluator(*stopped).word().startswith("down #frozen")
    assert evaluator(*row(4, WORKS, progress=lambda n: (float(n),), is_stopped=True)).word() == "up 100%"


def test_a_server_that_does_not_answer_is_down_only_if_it_does_not_work_either() -> None:
    silent = replace(WORKS, progress=None, running=0.0)
    assert evaluator(*row(4, silent, all_cpu_s=lambda n: n * STEP)).word() == "up 100%"
    assert evaluator(*row(within(10.5), silent)).word().startswith("down #frozen")


def test_an_engine_that_goes_on_is_up_again() -> None:
    looks = [*row(within(10.5), WORKS), replace(WORKS, at=within(10.5) * STEP, progress=(1.0,))]
    assert evaluator(*looks).word() == "up 100%"


def test_a_pause_of_the_agent_itself_says_nothing() -> None:
    assert evaluator(WORKS, replace(WORKS, at=100.0)).word() == "up 100%"


def test_only_repeated_errors_of_the_server_count() -> None:
    assert evaluator(*row(2, replace(WORKS, running=0.0), failures=1)).word() == "up 100%"
    assert evaluator(*row(2, replace(WORKS, running=0.0), failures=2)).word() == "down #answered 5xx to 2 questions"


def test_tokens_for_clients_spare_the_question() -> None:
    idle = replace(WORKS, running=0.0)
    assert not evaluator(*row(3, idle, tokens=lambda n: 5.0 * n, progress=lambda n: (5.0 * n,))).wants_question()
    # Its own tokens are no reason to trust it any longer.
    asked = row(3, idle, tokens=float, answers=int, progress=lambda n: (float(n),))
    assert evaluator(*asked).wants_question()


@pytest.mark.parametrize(
    ("running", "waiting", "cache", "weight"),
    [(8, 0, 0.5, 100), (8, 8, 0.5, 50), (1, 99, 0.5, 10), (8, 0, 0.99, 50), (8, 24, 0.99, 25)],
)
def test_load_lowers_the_weight(running: float, waiting: float, cache: float, weight: int) -> None:
    looks = row(2, replace(WORKS, running=running, waiting=waiting, cache=cache), progress=lambda n: (float(n),))
    assert evaluator(*looks).word() == f"up {weight}%"


def test_metrics_are_summed_over_labels() -> None:
    text = '# HELP a b\na{engine="0"} 1.5\na{engine="1"} 2\nab{x="y"} 9\nb 1e3\n'
    assert metrics(text, ["a", "b", "c"]) == {"a": 3.5, "b": 1000.0, "c": 0.0}


def test_processes_are_found_by_their_titles(tmp_path: Path) -> None:
    engine = subprocess.Popen(["VLLM::EngineCore", "60"], executable="sleep")
    try:
        numbers = tmp_path / "cgroup.procs"
        numbers.write_text(f"{engine.pid}\n4194304\n")
        paths = [tmp_path / "absent", numbers]
        wait_until(lambda: processes(paths, ["VLLM::"]).engine_cpu_s is not None, "it is never found")
        found = processes(paths, ["VLLM::"])
        assert (found.engine_cpu_s, found.is_stopped) == (0.0, False)
        assert processes(paths, ["other"]).engine_cpu_s is None
        engine.send_signal(signal.SIGSTOP)
        wait_until(lambda: processes(paths, ["VLLM::"]).is_stopped, "it is never stopped")
    finally:
        engine.kill()
        engine.wait()
    assert processes([tmp_path / "absent"], ["VLLM::"]).all_cpu_s is None


def test_the_real_vllm_has_these_metrics_and_processes(vllm_python: Path) -> None:
    [package] = (vllm_python.parent.parent / "lib").glob("python3*/site-packages/vllm")
    loggers = (package / "v1/metrics/loggers.py").read_text()
    for name in METRICS["progress"]:
        assert f'name="{name.removesuffix("_total")}"' in loggers, name
    assert 'os.getenv("VLLM_PROCESS_NAME_PREFIX", "VLLM")' in (package / "envs.py").read_text()
    titles = (package / "v1/engine/core.py").read_text() + (package / "v1/executor/multiproc_executor.py").read_text()
    by_ray = (package / "v1/executor/ray_executor_v2.py").read_text()
    for title in ENGINE["titles"]:
        start, _, name = title.partition("::")
        assert f'"{name}"' in titles if start == "VLLM" else f"class {name}(" in by_ray, title


def test_the_real_vllm_logs_each_stream_that_it_ends_with_an_error(vllm_python: Path) -> None:
    assert table("serving")["stream_error"]["logged"] == STREAM_ERROR.pattern
    [package] = (vllm_python.parent.parent / "lib").glob("python3*/site-packages/vllm")
    for name in ("chat_completion", "completion"):
        text = (package / f"entrypoints/openai/{name}/serving.py").read_text()
        logged = [line for line in text.splitlines() if "logger.exception" in line and STREAM_ERROR.search(line)]
        assert len(logged) == 1, name


def test_the_unit_belongs_to_that_of_the_engine() -> None:
    paths = InstallPaths(prefix="/opt/x", incoming="/tmp/x", owner="firstlight", root=True)
    served = Served("m", "[fd00::5]", 8000, "secret", "firstlight-vllm.service")
    text = health_agent.unit_text(served, paths, Settings().health_port)
    assert "PartOf=firstlight-vllm.service\n" in text
    assert "--listen fd00::5 --port 8009 --engine-address fd00::5 --engine-port 8000" in text
    assert "secret" not in text
    everywhere = health_agent.unit_text(replace(served, bind="0.0.0.0"), paths, 8009)
    assert "--listen 0.0.0.0 --port 8009 --engine-address 127.0.0.1" in everywhere


@pytest.fixture
def site(tmp_path: Path, installed: None) -> Iterator[Site]:
    """A gateway before two hosts with health agents."""
    with running(tmp_path, {"h1": "m", "h2": "m"}, agents=True) as made:
        yield made


def word(site: Site, name: str) -> str:
    """Return what the agent of a host says."""
    backend = site.stubs[name].backend
    assert backend.health_port is not None
    with socket.create_connection((backend.address, backend.health_port)) as connection:
        return connection.recv(200).decode()


@pytest.mark.slow
def test_a_frozen_engine_leaves_the_traffic_and_returns(site: Site) -> None:
    stub = site.stubs["h1"]
    stub.signal_engine(signal.SIGSTOP)
    site.wait("h1", "DOWN")
    assert "frozen" in site.row("model-0", "h1")["agent_desc"] or "frozen" in word(site, "h1")
    assert {site.chat().host for _ in range(10)} == {"h2"}
    stub.signal_engine(signal.SIGCONT)
    site.wait("h1", "UP")
    wait_until(lambda: site.chat().host == "h1", "the host that came back gets no request")


@pytest.mark.slow
def test_streams_of_an_engine_that_freezes_are_ended(site: Site) -> None:
    site.traffic(drain=["h2"])
    stub = site.stubs["h1"]
    stub.mode("stepwise")
    stream = read_tokens(site, "m")
    stub.step()
    assert next(stream) == "0 "
    stub.signal_engine(signal.SIGSTOP)
    stub.step()
    site.wait("h1", "DOWN")
    assert "end" not in list(read_rest(stream))
    wait_until(lambda: broken(site, "h1") == 1, "the stream that HAProxy ended is not counted")


def broken(site: Site, name: str) -> int:
    """Return how many answers of a host broke off."""
    found = site.traffic().of(name)
    return found.broken if found else -1


def read_rest(stream: Iterator[str]) -> Iterator[str]:
    """Yield the tokens of a stream until it breaks."""
    try:
        yield from stream
    except (http.client.HTTPException, OSError):
        return


@pytest.mark.slow
def test_an_engine_that_works_long_on_one_token_stays_in_the_traffic(site: Site) -> None:
    site.traffic(drain=["h2"])
    site.stubs["h1"].mode("work")
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(site.chat().status))
    client.start()
    seen = set()
    while client.is_alive():
        seen.add(site.state("h1"))
        client.join(0.2)
    assert (statuses, seen) == ([200], {"UP"})


@pytest.mark.slow
def test_errors_of_clients_mark_no_host_down(site: Site) -> None:
    for stub in site.stubs.values():
        stub.mode("refuse")
    before = len(site.stubs["h1"].seen(probes=True))
    assert {site.chat().status for _ in range(20)} == {400}
    wait_until(lambda: len(site.stubs["h1"].seen(probes=True)) > before + 3, "it is not asked for a token")
    assert (site.state("h1"), site.state("h2")) == ("UP", "UP")


@pytest.mark.slow
def test_errors_of_the_engine_take_it_out(site: Site) -> None:
    site.stubs["h1"].mode("fail")
    site.wait("h1", "DOWN")
    site.stubs["h1"].mode("ok")
    site.wait("h1", "UP")


@pytest.mark.slow
def test_errors_from_its_first_request_on_take_it_out(site: Site) -> None:
    site.stubs["h1"].mode("fail")
    site.restart_agent("h1")  # it does not know the model's name yet
    site.wait("h1", "DOWN")
    site.stubs["h1"].mode("ok")
    site.wait("h1", "UP")


@pytest.mark.slow
def test_the_word_of_an_agent_does_not_undo_a_drain(site: Site) -> None:
    site.traffic(drain=["h1"])
    assert word(site, "h1").startswith("up ")
    stub = site.stubs["h1"]
    stub.signal_engine(signal.SIGSTOP)
    site.wait("h1", "DRAIN")
    wait_until(lambda: word(site, "h1").startswith("down #"), "it is never seen")
    stub.signal_engine(signal.SIGCONT)
    wait_until(lambda: word(site, "h1").startswith("up "), "it is never up again")
    site.restart_agent("h1")
    wait_until(lambda: healthy(site, "h1"), "HAProxy never hears of it")
    assert {one.host: one.state for one in site.traffic().hosts} == {"h1": "drained", "h2": "up"}
    assert {site.chat().host for _ in range(10)} == {"h2"}
    site.traffic(ready=["h1"])
    wait_until(lambda: site.chat().host == "h1", "it gets no request after its return")


def healthy(site: Site, name: str) -> bool:
    found = site.traffic().of(name)
    return found is not None and found.healthy


@pytest.mark.slow
def test_a_host_whose_agent_ended_stays_in_the_traffic(site: Site) -> None:
    agent = site.stubs["h1"].agent
    assert agent is not None
    agent.kill()
    agent.wait()
    wait_until(lambda: site.row("model-0", "h1")["agent_status"] not in {"L7OK", "INI"}, "it is never missed")
    assert site.state("h1") == "UP"
    assert {site.chat().host for _ in range(10)} == {"h1", "h2"}


@pytest.mark.slow
def test_an_agent_answers_whatever_is_sent_and_reads_none_of_it(site: Site) -> None:
    backend = site.stubs["h1"].backend
    assert backend.health_port is not None
    with socket.create_connection((backend.address, backend.health_port)) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        assert connection.recv(200).decode().startswith("up ")


@pytest.mark.slow
def test_a_host_that_ends_leaves_the_traffic(site: Site) -> None:
    site.stubs["h1"].process.kill()
    site.stubs["h1"].process.wait()
    site.wait("h1", "DOWN")
    assert {site.chat().host for _ in range(10)} == {"h2"}
    site.stubs["h1"].restart()
    site.wait("h1", "UP")
