"""An engine that hangs while its processes run: what is concluded from looks at it, and what span.pyz does then."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.tables import own_table
from provision.features.multinode.hooks import PACKAGE, host_programs
from provision.features.multinode.onhost.span.hang import Look, Progress
from tests.features.gateway import stub_engine
from tests.features.multinode.test_span import PATIENCE_S, wait_until

LIMITS = own_table(PACKAGE / "hang.toml")["limits"]
STEP, LIMIT_S = float(LIMITS["look_s"]), float(LIMITS["hang_s"])
HANGS = Look(at=0.0, progress=(7.0,), tokens=7.0, is_asked=True)


def silent_s(*looks: Look) -> float:
    """Return what is known after looks at the usual interval."""
    progress = Progress(LIMIT_S / 2)
    return [progress.see(replace(look, at=number * STEP)) for number, look in enumerate(looks)][-1]


LONG = 2 * int(LIMIT_S / STEP)


def test_an_engine_that_owes_a_token_and_does_nothing_hangs() -> None:
    assert silent_s(*[HANGS] * LONG) > LIMIT_S
    assert silent_s(*[replace(HANGS, progress=None, is_asked=False)] * LONG) > LIMIT_S, "its server is silent as well"


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([replace(HANGS, tokens=0.0)] * LONG, id="its first request, which may compile kernels"),
        pytest.param([replace(HANGS, progress=(float(n),)) for n in range(LONG)], id="it computes under load"),
        pytest.param([replace(HANGS, answers=n) for n in range(LONG)], id="it answers, and has no metrics"),
        pytest.param([replace(HANGS, is_asked=False)] * LONG, id="nobody asks it"),
    ],
)
def test_no_other_engine_hangs(looks: list[Look]) -> None:
    assert silent_s(*looks) == 0.0


def test_one_sign_of_progress_is_enough() -> None:
    assert silent_s(*[HANGS] * LONG, replace(HANGS, progress=(8.0,)), replace(HANGS, progress=(8.0,))) == STEP


def test_a_pause_of_the_whole_host_says_nothing() -> None:
    progress = Progress(LIMIT_S / 2)
    assert [progress.see(replace(HANGS, at=at)) for at in (0.0, 1e6, 1e6 + STEP)] == [0.0, 0.0, STEP]


def test_a_gateway_takes_a_model_out_before_its_hosts_give_it_up() -> None:
    health = own_table(Path("provision/features/watchdog/onhost/health/health.toml"))["limits"]
    assert health["patience_s"] * 2 == LIMIT_S
    assert LIMIT_S + 2 * STEP < 300.0, "vLLM itself would give up before"


def impatient(program: Path, target: Path) -> Path:
    """Copy span.pyz with limits of a fraction of a second."""
    limits = {"look_s": 0.1, "answer_s": LIMITS["answer_s"], "hang_s": 1.0}
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, json.dumps({"limits": limits}) if name == "span/hang.json" else source.read(name))
    return target


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def stub(port: int, **mode: str) -> int | None:
    """Ask the stub for what came, or set its mode; None while nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.request("POST" if mode else "GET", "/stub", json.dumps(mode) if mode else None)
        return len(json.loads(connection.getresponse().read()).get("seen", ()))
    except ConnectionRefusedError:
        return None
    finally:
        connection.close()


def test_an_engine_that_hangs_ends_the_servers_of_all_hosts(tmp_path: Path) -> None:
    program = impatient(host_programs(tmp_path)["span.pyz"], tmp_path / "impatient.pyz")
    port, engine = free_port(), free_port()
    servers = [
        [sys.executable, stub_engine.__file__, "m", "127.0.0.1", str(engine), "key", str(tmp_path / "processes")],
        ["sleep", "600"],
    ]
    running = []
    for rank, server in enumerate(servers):
        words = ["--rank", str(rank), "--addresses", "127.0.0.1,127.0.0.1", "--port", str(port), "--agreement", "same"]
        asked = [] if rank else ["--engine", "127.0.0.1", str(engine)]
        with (tmp_path / f"log-{rank}").open("w") as log:
            command = [sys.executable, "-I", "-S", str(program), *words, *asked, "--", *server]
            running.append(subprocess.Popen(command, stderr=log, env={"VLLM_API_KEY": "key"}))
    try:
        wait_until(lambda: (stub(engine) or 0) > 20)
        assert [process.poll() for process in running] == [None, None], "it answers"
        stub(engine, mode="hang")
        assert [process.wait(PATIENCE_S) for process in running] == [1, 1]
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert (
        "ends on all hosts: the engine has computed nothing for 1 s, although it has requests"
        in (tmp_path / "log-0").read_text()
    )
    assert stub(engine) is None
