"""The serving processes compared with the plan: /proc of a real service, with one value changed at a time."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from verify.checks.serving.process import ProcessFacts, evaluate
from verify.serving.processes import (
    ListeningSocket,
    Process,
    attention_notes,
    listeners,
    listening,
    mapped_code,
    proves_start,
    read,
)
from verify.serving.service import Service
from verify.serving.service_plan import ServicePlan

UNIT = """[Service]
User=firstlight
ExecStart=/p/current/bin/vllm serve /p/models/m --port 8000 --dtype auto --enforce-eager
LimitNOFILE=1048576
LimitMEMLOCK=infinity
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
SystemCallFilter=@system-service
"""
PLAN = ServicePlan("systemd", "firstlight-vllm.service", UNIT, environment={"HF_HUB_OFFLINE": "1", "VLLM_X": "2"})
STATUS = {
    "Uid": "999\t999\t999\t999",
    "Umask": "0077",
    "NoNewPrivs": "1",
    "Seccomp": "2",
    "CapEff": "0000000000000000",
    "CapBnd": "0000000000000000",
}
SERVER = Process(
    7,
    1,
    argv=("/p/envs/ab/bin/python", *PLAN.argv),
    executable="/usr/bin/python3.11",
    environment={
        "HF_HUB_OFFLINE": "1",
        "VLLM_X": "2",
        "VLLM_API_KEY": "the-key-itself",
        "PATH": "/usr/bin",
        "HOME": "/p",
    },
    status=STATUS,
    limits={"Max open files": "20000", "Max locked memory": "8388608"},
    mapped=frozenset(
        {"/usr/lib/libc.so.6", "/p/envs/ab/lib/torch/libtorch.so", "/memfd:ffi (deleted)", "/p/cache/x.so"}
    ),
    sockets=frozenset({"9"}),
    scheduling={"policy": "0", "nice": "0", "oom": "0", "io": "best-effort", "cpus": "0-7"},
)
ENGINE = replace(
    SERVER,
    pid=8,
    parent=7,
    argv=("VLLM::EngineCore", ""),
    environment={"LD_PRELOAD": "/p/envs/ab/lib/libgomp.so.1", "LD_LIBRARY_PATH": "/p/envs/ab/lib/cv2/../lib64:"},
    sockets=frozenset(),
    scheduling={**SERVER.scheduling, "cpus": "0-3"},  # which the engine chose itself
)
SOUND = ProcessFacts(
    7,
    (SERVER, ENGINE),
    (ListeningSocket("127.0.0.1", (SERVER,)),),
    age_s=90.0,
    interpreter="/usr/bin/python3.11",
    homes=("/p/envs/ab/", "/p/cache/", "/usr/"),
    uid=999,
    key="the-key-itself",
    highest={"Max open files": "20000", "Max locked memory": "8388608"},
    manager=SERVER.scheduling,
    readiness={"processes": 1, "asked": "CPU_ATTN"},
    notes=({"layers": []}, {"layers": [{"backend": "CPU_ATTN"}] * 4}),
    proven=True,
)
STRANGER = Process(66, 1, argv=("/usr/bin/python3", "-m", "http.server"))


def server(**changes: Any) -> ProcessFacts:
    return replace(SOUND, processes=(replace(SERVER, **changes), ENGINE))


def engine(**changes: Any) -> ProcessFacts:
    return replace(SOUND, processes=(SERVER, replace(ENGINE, **changes)))


def variables(**values: str) -> ProcessFacts:
    return server(environment={**SERVER.environment, **values})


@pytest.mark.parametrize("facts", [SOUND, engine(state="t")], ids=["running", "while a profiler looks at it"])
def test_a_service_as_planned_passes(facts: ProcessFacts) -> None:
    outcome = evaluate(PLAN, facts)
    assert (outcome.status, outcome.reason) == (
        "ok",
        "python vllm serve (PID 7) and 1 descendants run as planned, from this environment's files",
    )
    assert "restarted since its answers were verified" in evaluate(PLAN, replace(SOUND, proven=False)).reason


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            replace(SOUND, listeners=(ListeningSocket("0.0.0.0", (STRANGER,)),)),
            "port 8000 is held by python3 -m http.server (PID 66), which firstlight-vllm.service did not start",
        ),
        (replace(SOUND, listeners=(ListeningSocket("127.0.0.1"),)), "held by a process that is not"),
        (replace(SOUND, listeners=(), age_s=7200.0), "nothing listens on port 8000, 7200 s after"),
        (server(executable="/tmp/python3"), "runs /tmp/python3, not the environment's /usr/bin/python3.11"),
        (server(argv=(*SERVER.argv, "--max-model-len", "9")), "not the planned one: --max-model-len differs"),
        (server(argv=SERVER.argv[:-3]), "not the planned one: --dtype, --enforce-eager differs"),
        (server(argv=("/tmp/p", "/tmp/serve.py")), "not the planned one: --dtype"),
        (variables(PYTHONPATH="/tmp/x"), "python vllm serve (PID 7) loads unplanned code, by PYTHONPATH"),
        (variables(LD_PRELOAD="/p/envs/ab/lib/x.so"), "loads unplanned code, by LD_PRELOAD"),
        (engine(environment={"LD_PRELOAD": "/tmp/x.so"}), "VLLM::EngineCore (PID 8) loads unplanned code"),
        (variables(VLLM_X="3"), "variables of python vllm serve (PID 7) differ from the plan: VLLM_X"),
        (variables(VLLM_API_KEY=""), "does not have the API key of etc/service.env"),
        (
            engine(mapped=frozenset({"/tmp/x.so"})),
            "VLLM::EngineCore (PID 8) runs code from outside the environment: /tmp/x.so",
        ),
        (
            engine(mapped=frozenset({"/p/envs/ab/lib/a.so (deleted)"})),
            "runs files that were replaced since it started: /p/envs/ab/lib/a.so",
        ),
        (engine(state="T"), "VLLM::EngineCore (PID 8) is stopped by a signal (state T)"),
        (engine(status={**STATUS, "NoNewPrivs": "0"}), "VLLM::EngineCore (PID 8) runs with NoNewPrivs 0"),
        (server(status={**STATUS, "Seccomp": "0"}), "runs with Seccomp 0"),
        (server(status={**STATUS, "CapBnd": "00000000a80425fb"}), "runs with CapBnd 00000000a80425fb"),
        (server(status={**STATUS, "Uid": "0\t0\t0\t0"}), "user 0 instead of 999"),
        (server(status={**STATUS, "Umask": "0022"}), "runs with Umask 0022"),
        (
            server(limits={"Max open files": "1024"}),
            "max open files of python vllm serve (PID 7): 1024, planned 1048576",
        ),
        (server(scheduling={**SERVER.scheduling, "cpus": "2"}), "(PID 7) has processors 2 instead of 0-7"),
        (
            engine(scheduling={"policy": "5", "nice": "5"}),
            "has scheduling policy 5 instead of 0, niceness 5 instead of 0",
        ),
        (engine(scheduling={"io": "idle"}), "VLLM::EngineCore (PID 8) has I/O class idle instead of best-effort"),
        (engine(scheduling={"oom": "900"}), "VLLM::EngineCore (PID 8) has OOM score adjustment 900 instead of 0"),
        (replace(SOUND, notes=()), "0 of 1 engine processes report the attention"),
        (
            replace(SOUND, notes=({"layers": [{"backend": "TORCH_SDPA"}] * 4},)),
            "of 4 attention layers 4 use TORCH_SDPA, planned CPU_ATTN",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_difference_from_the_plan_is_a_failure_that_names_the_process(facts: ProcessFacts, words: str) -> None:
    outcome = evaluate(PLAN, facts)
    assert outcome.status == "fail"
    assert words in outcome.reason
    assert "the-key-itself" not in str(outcome)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (variables(OMP_NUM_THREADS="1"), "has unplanned variables: OMP_NUM_THREADS"),
        (engine(mapped=frozenset({"/usr/lib/libssl.so.3 (deleted)"})), "files of the system that were replaced"),
        (
            replace(SOUND, listeners=(), notes=(), age_s=12.0),
            "was started 12 s ago and does not listen on port 8000 yet",
        ),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_difference_that_may_be_correct_is_a_warning(facts: ProcessFacts, words: str) -> None:
    outcome = evaluate(PLAN, facts)
    assert outcome.status == "warn"
    assert words in outcome.reason


def test_what_the_unit_says_of_scheduling_comes_before_what_the_manager_has() -> None:
    lines = "Nice=5\nCPUSchedulingPolicy=batch\nOOMScoreAdjust=-500\nCPUAffinity=2\nIOSchedulingClass=3\n"
    planned = replace(PLAN, unit=UNIT + lines)
    given = {"policy": "3", "nice": "5", "oom": "-500", "cpus": "2", "io": "idle"}
    facts = replace(SOUND, processes=(replace(SERVER, scheduling=given), replace(ENGINE, scheduling=given)))
    assert evaluate(planned, facts).status == "ok"
    assert "niceness 5 instead of 0" in evaluate(PLAN, facts).reason
    assert "OOM" not in evaluate(replace(PLAN, supervisor="systemd-user"), facts).reason


def test_unreadable_processes_are_no_failure() -> None:
    hidden = replace(SERVER, environment={}, status={}, limits={}, mapped=frozenset())
    assert evaluate(PLAN, replace(SOUND, processes=(hidden,))).status == "ok"


def test_the_remedy_continues_a_stopped_process_and_ends_an_unknown_one() -> None:
    assert evaluate(PLAN, engine(state="T")).remedy == "continue it: kill -CONT 8; or ./firstlight provision"
    stranger = replace(SOUND, listeners=(ListeningSocket("0.0.0.0", (STRANGER,)),))
    assert evaluate(PLAN, stranger).remedy == "end the processes that hold the port: kill 66; then ./firstlight serve"


def test_the_kernels_tables_are_read() -> None:
    four = "head\n   0: 0100007F:1F40 00000000:0000 0A 0:0 00:0 0 999 0 101535 1\n   1: 0100007F:1F40 0100007F:0016 01 0:0 00:0 0 999 0 5 1"
    six = "head\n   0: 00000000000000000000000001000000:1F40 0:0 0A 0:0 00:0 0 999 0 7 1"
    assert list(listening(four)) == [("127.0.0.1", 8000, "101535")]
    assert list(listening(six)) == [("::1", 8000, "7")]
    maps = "7f r-xp 0 fd:01 5   /usr/lib/a b.so (deleted)\n7f r--p 0 fd:01 5 /usr/lib/data\n7f r-xp 0 0:0 0 [vdso]\n7f rwxp 0 0:0 0\n"
    assert mapped_code(maps) == {"/usr/lib/a b.so (deleted)"}


def test_a_real_listening_process_is_found_with_all_its_properties() -> None:
    code = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env={"MARK": "x=y"}) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        found = read(process.pid)
        (one,) = listeners(port)
        process.kill()
    assert found is not None
    assert (found.argv[1:2], found.parent, found.executable) == (("-c",), os.getpid(), os.path.realpath(sys.executable))
    assert found.environment["MARK"] == "x=y"
    assert found.status["Uid"].split()[0] == str(os.getuid())
    assert int(found.limits["Max open files"]) <= int(found.hard_limits["Max open files"])
    assert found.scheduling["policy"] == str(os.sched_getscheduler(0))
    assert found.scheduling["nice"] == str(os.nice(0))
    assert found.scheduling["cpus"]
    assert int(found.scheduling["oom"]) >= -1000
    assert any("libc" in path for path in found.mapped)
    assert (one.address, [holder.pid for holder in one.holders]) == ("127.0.0.1", [process.pid])
    assert read(process.pid) is None


def test_proofs_belong_to_one_start_and_records_to_running_processes(tmp_path: Path) -> None:
    service, boot_id = Service(tmp_path, {}, None), Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    main = replace(SERVER, start_ticks=5)
    assert proves_start(service, main) is None
    (tmp_path / "verify").mkdir()
    (tmp_path / "run").mkdir()
    kept = tmp_path / "verify" / "ready.json"
    for ticks in (5, 4):
        kept.write_text(json.dumps({"main_pid": 7, "boot_id": boot_id, "start_ticks": ticks}))
        assert proves_start(service, main) is (ticks == 5)
    for pid, ticks in ((7, 5), (7, 4), (9, 5)):
        (tmp_path / "run" / f"attention-{pid}-{ticks}.json").write_text(json.dumps({"pid": pid, "start_ticks": ticks}))
    assert attention_notes(service, (main,)) == ({"pid": 7, "start_ticks": 5},)
