"""The health agent: what it concludes from looks at an engine, and what its unit says."""

import math
import os
import re
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.settings import Settings
from provision.features.watchdog import health_agent
from provision.features.watchdog.onhost.health.agent import ask_for_restart
from provision.features.watchdog.onhost.health.evaluation import Evaluator, Look
from provision.features.watchdog.onhost.watchdog import reason_of
from provision.phases.serve.onhost.shared.engine import UNANSWERED, Server, processes
from provision.phases.serve.tools import SHARED
from provision.run.served import Served
from tests.features.gateway.running import stub
from tests.features.watchdog.full_disk import full_disk
from tests.verify.conftest import vllm_python
from tests.waiting import wait_until
from verify.tables import table

__all__ = ["vllm_python"]

HEALTH = tomllib.loads((Path(health_agent.__file__).parent / "onhost/health/health.toml").read_text())
ENGINE = tomllib.loads((SHARED[0] / "engine.toml").read_text())
METRICS = ENGINE["metrics"]
LIMITS, RESTART = HEALTH["limits"], HEALTH["restart"]
STEP: float = LIMITS["look_s"]


def evaluator(*looks: Look) -> Evaluator:
    made = Evaluator(LIMITS, RESTART)
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


def test_an_engine_without_requests_is_up_and_is_asked() -> None:
    idle = evaluator(*row(200, replace(WORKS, running=0.0)))
    assert idle.word() == "up 100%"
    assert idle.wants_question()


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


def test_a_stopped_process_counts_within_two_seconds_although_others_wait_actively() -> None:
    stopped = row(4, WORKS, engine_cpu_s=lambda n: n * STEP, is_stopped=True)
    assert stopped[-1].at <= 2.0
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


def hangs(*looks: Look) -> str | None:
    return evaluator(*looks).hang()


def test_an_engine_with_a_stopped_process_has_to_be_restarted_also_without_requests() -> None:
    stopped = row(within(6), WORKS, progress=lambda n: (float(n),), is_stopped=True)
    assert hangs(*stopped[:-1]) is None
    assert hangs(*stopped) == "frozen: stopped by a signal for 6 s"
    assert hangs(*row(within(6), replace(WORKS, running=0.0), is_stopped=True)) == "frozen: stopped by a signal for 6 s"
    assert hangs(*stopped, replace(WORKS, at=within(6) * STEP)) is None, "it goes on"


def test_a_deadlock_has_to_be_restarted_where_nothing_computes() -> None:
    assert hangs(*row(within(29), WORKS)) is None
    assert hangs(*row(within(30), WORKS)) == "frozen: has requests and has computed nothing for 30 s"
    silent = replace(WORKS, progress=None, running=0.0)
    assert hangs(*row(within(30), silent)) is not None, "its server does not answer either"


def test_an_engine_that_answers_no_question_has_to_be_restarted_although_it_reports_no_request() -> None:
    idle = replace(WORKS, running=0.0, tokens=5.0)
    asked = row(within(240), idle, engine_cpu_s=lambda n: n * STEP, is_asked=lambda n: n % 100 != 99)
    looks = [replace(look, failures=UNANSWERED if number >= 99 else 0) for number, look in enumerate(asked)]
    assert hangs(*looks) == "no token for 240 s"


def test_each_worker_may_have_threads_that_wake_up_although_it_hangs() -> None:
    resting = row(within(30), WORKS, engine_cpu_s=lambda n: n * STEP * 0.03)
    assert hangs(*resting) is None, "one process with as much computes"
    assert hangs(*(replace(look, engines=3) for look in resting)) is not None


def test_a_deadlock_has_to_be_restarted_where_others_wait_actively() -> None:
    spins = row(within(240), replace(WORKS, tokens=5.0), engine_cpu_s=lambda n: n * STEP)
    assert hangs(*spins[:-1]) is None
    assert hangs(*spins) == "no token for 240 s"


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param(
            row(
                within(600),
                replace(WORKS, running=256.0, waiting=900.0, tokens=1.0),
                progress=lambda n: (float(n * STEP // 100),),
                engine_cpu_s=lambda n: n * STEP,
                failures=lambda n: n,
            ),
            id="a token every hundred seconds, under full load, with questions that time out",
        ),
        pytest.param(
            row(
                within(600),
                replace(WORKS, tokens=1.0),
                progress=lambda n: None if n % 50 else (float(n),),
                all_cpu_s=lambda n: n * STEP,
            ),
            id="a server that rarely answers in time",
        ),
        pytest.param(row(within(600), WORKS, engine_cpu_s=lambda n: n * STEP), id="its first request compiles kernels"),
        pytest.param(row(within(600), replace(WORKS, running=0.0)), id="nobody asks it"),
        pytest.param(row(within(120), WORKS, engine_cpu_s=None, all_cpu_s=None), id="unknown processes"),
    ],
)
def test_a_slow_but_honest_engine_is_not_restarted(looks: list[Look]) -> None:
    made = evaluator()
    for one in looks:
        made.see(one)
        assert made.hang() is None, one


def test_stacks_are_taken_before_vllm_ends_itself() -> None:
    assert RESTART["busy_s"] < 300.0
    assert RESTART["idle_s"] > LIMITS["idle_s"], "a gateway stops sending before that"


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/embeddings", "/v1/score"])
def test_an_engine_is_asked_for_what_its_model_makes(route: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: Server, method: str, path: str, body: Any, timeout_s: float) -> tuple[int, bytes]:
        assert timeout_s == 5
        if method == "GET":
            return 200, b'{"data": [{"id": "m"}]}'
        return 200 if (path, body["model"]) == (route, "m") else 404, b""

    monkeypatch.setattr(Server, "_request", answer)
    server = Server("127.0.0.1", 8000, None, answer_s=1, patience_s=5)
    statuses = [server._completion() for _ in range(4)]
    assert 200 in statuses
    assert statuses[statuses.index(200) :] == [200] * (4 - statuses.index(200)), "the route that answers stays"


def test_processes_are_found_by_their_titles(tmp_path: Path) -> None:
    engine = subprocess.Popen(["VLLM::EngineCore", "60"], executable="sleep")
    try:
        numbers = tmp_path / "cgroup.procs"
        numbers.write_text(f"{engine.pid}\n4194304\n")
        paths = [tmp_path / "absent", numbers]
        wait_until(lambda: processes(paths, ["VLLM::"]).engine_cpu_s is not None, "it is never found")
        found = processes(paths, ["VLLM::"])
        assert (found.engine_cpu_s, found.engines, found.is_stopped) == (0.0, 1, False)
        assert processes(paths, ["other"]).engine_cpu_s is None
        engine.send_signal(signal.SIGSTOP)
        wait_until(lambda: processes(paths, ["VLLM::"]).is_stopped, "it is never stopped")
    finally:
        engine.kill()
        engine.wait()
    assert processes([tmp_path / "absent"], ["VLLM::"]).all_cpu_s is None


def test_an_engine_that_waits_for_a_compiler_computes(tmp_path: Path) -> None:
    """Its compiler works for it; the server beside them does not. Ticks of the kernel are 10 ms."""
    busy = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); time.sleep(60)"
    code = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {busy!r}])"
    engine, server = (
        subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE, start_new_session=True)
        for words in (["VLLM::Worker", "-c", code], ["vllm", "-c", busy])
    )
    try:
        for one in (engine, server):
            assert one.stdout is not None
            one.stdout.readline()
        [compiler] = Path(f"/proc/{engine.pid}/task/{engine.pid}/children").read_text().split()
        numbers = tmp_path / "cgroup.procs"
        numbers.write_text(f"{compiler}\n{engine.pid}\n{server.pid}\n")
        found = processes([numbers], ["VLLM::"])
        assert found.engine_cpu_s is not None
        assert found.all_cpu_s is not None
        assert found.engine_cpu_s >= 0.2
        assert found.all_cpu_s - found.engine_cpu_s >= 0.2
        assert found.engines == 1
    finally:
        for one in (engine, server):
            os.killpg(one.pid, signal.SIGKILL)
            one.wait()


@pytest.mark.parametrize(
    ("unit", "group"),
    [
        ("firstlight-vllm.service", "system.slice/firstlight-vllm.service"),
        ("firstlight-vllm@chat.service", r"system.slice/system-firstlight\x2dvllm.slice/firstlight-vllm@chat.service"),
    ],
)
@pytest.mark.parametrize("version", ["", "systemd/"])
def test_the_processes_of_each_of_several_services_are_found(
    unit: str, group: str, version: str, tmp_path: Path
) -> None:
    (tmp_path / version / group).mkdir(parents=True)
    (tmp_path / version / group / "cgroup.procs").write_text(f"{os.getpid()}\n")
    paths = [
        Path(one.format(unit=unit).replace("/sys/fs/cgroup", str(tmp_path))) for one in HEALTH["processes"]["groups"]
    ]
    assert processes(paths, []).all_cpu_s is not None


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
    pattern = re.compile(table("serving")["stream_error"]["logged"])
    [package] = (vllm_python.parent.parent / "lib").glob("python3*/site-packages/vllm")
    for name in ("chat_completion", "completion"):
        text = (package / f"entrypoints/openai/{name}/serving.py").read_text()
        logged = [line for line in text.splitlines() if "logger.exception" in line and pattern.search(line)]
        assert len(logged) == 1, name


PATHS = InstallPaths(prefix="/opt/x", incoming="/tmp/x", owner="firstlight", root=True)
SERVED = Served("m", "[fd00::5]", 8000, "secret", "firstlight-vllm.service")


def test_the_units_belong_to_that_of_the_engine() -> None:
    texts = health_agent.unit_texts(SERVED, PATHS, Settings(), listens=True)
    agent, path, acting = (texts[name] for name in (health_agent.AGENT, *health_agent.WATCHDOG))
    assert all("PartOf=firstlight-vllm.service\n" in text for text in (agent, path))
    assert "PartOf" not in acting, "it would be ended by the restart that it asks for"
    assert "--listen fd00::5 --port 8009 --request /opt/x/run/hang\n" in agent
    assert "--engine-address fd00::5 --engine-port 8000" in agent
    assert "--unit firstlight-vllm.service --restarts 3\n" in acting
    assert "secret" not in "".join(texts.values())
    everywhere = health_agent.unit_texts(replace(SERVED, bind="0.0.0.0"), PATHS, Settings(), listens=True)
    assert "--engine-address 127.0.0.1 " in everywhere[health_agent.AGENT]
    assert "--listen 0.0.0.0 --port 8009" in everywhere[health_agent.AGENT]


def test_another_program_or_unit_changes_what_a_host_notes() -> None:
    programs, units = {"a": b"1", "b": b"2"}, {"a.service": "1"}
    others = [({**programs, "b": b"3"}, units), (programs, {"a.service": "2"}), (programs, {})]
    assert len({health_agent.digest(*each) for each in ((programs, units), *others)}) == 4
    assert health_agent.digest({"b": b"2", "a": b"1"}, units) == health_agent.digest(programs, units)


def test_a_host_has_what_it_needs() -> None:
    alone = health_agent.unit_texts(SERVED, PATHS, Settings(), listens=False)
    assert "--listen" not in alone[health_agent.AGENT]
    without = Settings(watchdog=False)
    behind = health_agent.unit_texts(SERVED, PATHS, without, listens=True)
    assert [*behind] == [health_agent.AGENT]
    assert "--request" not in behind[health_agent.AGENT]
    assert health_agent.unit_texts(SERVED, PATHS, without, listens=False) == {}


def test_an_agent_asks_for_a_restart_on_a_full_disk_too(tmp_path: Path) -> None:
    request = tmp_path / "hang"
    with full_disk():
        ask_for_restart(request, "frozen: it has computed nothing for 30 s")
    assert reason_of(request) == "without a reason"


@pytest.mark.slow
def test_an_agent_asks_for_a_restart_as_long_as_there_is_a_reason(tmp_path: Path) -> None:
    made = stub("h1", "127.0.9.70", folder=tmp_path, request=tmp_path / "hang")
    try:
        made.signal_engine(signal.SIGSTOP)
        wait_until((tmp_path / "hang").exists, "it asks for none")
        assert re.fullmatch(r"frozen: stopped by a signal for \d+ s\n", (tmp_path / "hang").read_text())
        made.signal_engine(signal.SIGCONT)
        wait_until(lambda: not (tmp_path / "hang").exists(), "the request stays")
    finally:
        assert made.agent is not None
        for process in (made.process, made.agent):
            process.kill()
            process.wait()
