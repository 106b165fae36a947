"""Comparison of two choices for the service: its command, its options, the table, the verdicts."""

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from types import ModuleType
from typing import Any

import pytest

from verify.cli import compare as compare_cli
from verify.cli.compare import table_of
from verify.runner.child_processes import run_one
from verify.serving import comparison, service_control
from verify.serving.comparison import (
    Command,
    Target,
    VariantError,
    at_once,
    backends,
    figures,
    parse_target,
    require_answers,
    require_difference,
    running,
    serve_variant,
    side_by_side,
    under_load,
    with_backend,
)
from verify.serving.service import Service, start_ticks
from verify.serving.soak import gpu_bytes, usage
from verify.tables import table

SERVE = Command(
    ("/opt/firstlight/current/bin/vllm", "serve", "/m", "--attention-backend", "FLASH_ATTN"),
    {"HOME": "/opt/firstlight/cache"},
    997,
    997,
)
BEFORE = {
    "at_once": 16,
    "first_token": 80.0,
    "p50": 800.0,
    "p99": 1000.0,
    "output": 100.0,
    "memory": 2.0,
    "cpu": 40.0,
    "failed": 0.0,
}


def test_a_back_end_is_passed_in_the_form_of_the_release() -> None:
    assert with_backend(SERVE, "TRITON_ATTN").argv[3:5] == ("--attention-backend", "TRITON_ATTN")
    older = Command(("vllm", "serve", "/m"), {"VLLM_ATTENTION_BACKEND": "FLASH_ATTN_VLLM_V1"}, 0, 0)
    changed = with_backend(older, "TRITON_ATTN_VLLM_V1")
    assert changed.environment["VLLM_ATTENTION_BACKEND"] == "TRITON_ATTN_VLLM_V1"
    with pytest.raises(VariantError, match="names no attention back end"):
        with_backend(Command(("vllm", "serve", "/m"), {}, 0, 0), "TRITON_ATTN")


def test_the_command_of_a_running_process_is_read_completely(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "print('ready', flush=True); import time; time.sleep(600)"],
        env={"A": "1=2", "EMPTY": "", "TWO": "a b"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    found = running(Service(tmp_path, {}, process.pid))
    process.kill()
    process.communicate()
    assert found.argv[:2] == (sys.executable, "-c")
    assert {name: found.environment[name] for name in ("A", "EMPTY", "TWO")} == {"A": "1=2", "EMPTY": "", "TWO": "a b"}
    assert (found.uid, found.gid) == (os.geteuid(), os.getegid())
    assert found.folder == str(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
def test_the_tool_that_may_run_code_of_the_model_has_the_account_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bench(options: argparse.Namespace) -> None:
        found = {"ids": [*os.getresuid(), *os.getresgid()], "groups": os.getgroups(), "home": os.environ["HOME"]}
        found |= {"key": os.environ["OPENAI_API_KEY"], "prompts": Path(options.dataset_path).read_text()}
        Path(options.result_dir, options.result_filename).write_text(json.dumps(found))

    tool = ModuleType("serve")
    vars(tool).update(add_cli_args=known_words, main=bench)
    packages = {"vllm": ModuleType("vllm"), "vllm.benchmarks": ModuleType("benchmarks"), "vllm.benchmarks.serve": tool}
    packages["vllm.benchmarks"].serve = tool  # type: ignore[attr-defined]
    for name, module in packages.items():
        monkeypatch.setitem(sys.modules, name, module)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/service.env").write_text("VLLM_API_KEY=secret\n")
    (tmp_path / "etc/service.env").chmod(0o600)
    process = subprocess.Popen(
        ["/bin/sh", "-c", "echo; read line", "--trust-remote-code"],  # another account cannot run this Python below /root
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={"HOME": "/its/home"}, user=65534, group=65533, extra_groups=[65532], cwd="/",
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # before it runs, its arguments may not be there to read
    readiness = {"host": "127.0.0.1", "port": 1, "served_name": "m", "model_folder": "/m"}
    load = {**table("serving")["load"], "concurrencies": [1], "requests": [1], "dataset": "its hash"}
    try:
        with NamedTemporaryFile("w") as prompts:
            prompts.write("prompts")
            prompts.flush()
            ending = run_one(
                lambda: list(under_load(Service(tmp_path, readiness, process.pid), load, dataset=prompts.name)),
                deadline_s=60.0,
            )
    finally:
        process.kill()
        process.wait()
    assert ending.problem is None, ending.output
    (found,) = ending.value
    ids = [65534] * 3 + [65533] * 3
    assert (found["ids"], found["groups"], found["home"]) == (ids, [65532], "/its/home")
    assert (found["key"], found["prompts"]) == ("secret", "prompts")


def known_words(parser: argparse.ArgumentParser) -> None:
    """Options of the tool that are used here."""
    for name in ("--dataset-path", "--result-dir", "--result-filename"):
        parser.add_argument(name)
    parser.parse_args = lambda words: argparse.ArgumentParser.parse_known_args(parser, words)[0]  # type: ignore[assignment, method-assign]


SERVER = """
import http.server, sys
class Answering(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_): ...
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Answering).serve_forever()
"""


@pytest.fixture
def service(tmp_path: Path) -> Service:
    """A service at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Service(tmp_path, {"host": "127.0.0.1", "port": probe.getsockname()[1], "served_name": "m"}, None)


def here(*argv: str) -> Command:
    return Command((sys.executable, *argv), dict(os.environ), os.geteuid(), os.getegid(), tuple(os.getgroups()))


def test_a_server_is_healthy_within_the_block_and_ended_after_it(service: Service) -> None:
    with serve_variant(service, here("-c", SERVER, str(service.endpoint.port))) as server:
        assert server.main_pid is not None
        assert usage(server).total > 0
    assert start_ticks(server.main_pid) is None


BROKEN_ENGINE = """
import os, sys
print('PermissionError: ' + os.getcwd())
print('trace ' * 2000)
sys.exit('RuntimeError: Engine core initialization failed. See root cause above.')
"""


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("raise ValueError('No valid attention backend')", "ValueError: No valid attention backend"),
        (BROKEN_ENGINE, "PermissionError: {}$"),
    ],
    ids=["of the server", "of its engine"],
)
def test_a_server_that_does_not_start_in_its_folder_reports_the_error(
    service: Service, program: str, problem: str
) -> None:
    command = replace(here("-c", program), folder=str(service.prefix))
    words = f"ended with 1 before it answered: {problem.format(service.prefix)}"
    with pytest.raises(VariantError, match=words), serve_variant(service, command):
        pass


def test_only_back_ends_of_the_servers_own_processes_are_reported(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for pid, name in ((os.getpid(), "TRITON_ATTN"), (1, "FLASH_ATTN")):
        ticks = int(start_ticks(pid) or 0)
        notes = {"pid": pid, "start_ticks": ticks, "layers": [{"backend": name}, {"backend": name}]}
        (tmp_path / "run" / f"attention-{pid}.json").write_text(json.dumps(notes))
    (tmp_path / "run" / "attention-7.json").write_text("{")
    assert backends(Service(tmp_path, {}, os.getpid())) == ["TRITON_ATTN"]


APPS = "4711, 61234\n4712, 1024\n99, 512\n4713, [N/A]\n"
"""Output of `nvidia-smi --query-compute-apps=pid,used_memory --format=csv,noheader,nounits` with invented values."""


def test_the_memory_of_gpus_is_that_of_our_own_processes() -> None:
    assert gpu_bytes(APPS, {4711, 4712, 4713}) == (61234 + 1024) << 20
    assert gpu_bytes("", {4711}) == 0
    assert gpu_bytes(None, {4711}) is None


def result(**other: Any) -> dict[str, Any]:
    """Return a result as the tool writes it, with the keys that are read."""
    return {
        "max_concurrency": 4,
        "num_prompts": 16,
        "completed": 16,
        "total_output_tokens": 256,
        "output_throughput": 200.0,
        "p50_ttft_ms": 30.0,
        "p50_e2el_ms": 700.0,
        "p99_e2el_ms": 900.0,
        **other,
    }


def test_speeds_are_compared_at_the_largest_common_concurrency_and_work_up_to_it() -> None:
    one, four = result(max_concurrency=1, output_throughput=50.0, cpu_s=5.6), result(completed=12, cpu_s=20.0)
    slow = {"used": ["CPU_ATTN"], "results": [one, four], "memory": 3 << 30}
    fast = {**slow, "results": [one, four, result(max_concurrency=16, output_throughput=900.0, cpu_s=99.0)]}
    assert at_once(slow, fast) == at_once(fast, slow) == 4
    assert at_once(fast, fast) == 16
    assert figures(fast, 4) == figures(slow, 4)
    assert figures(slow, 4) == {
        "used": ["CPU_ATTN"],
        "at_once": 4,
        "first_token": 30.0,
        "p50": 700.0,
        "p99": 900.0,
        "output": 200.0,
        "memory": 3.0,
        "cpu": 50.0,
        "failed": 0.125,
    }


def test_a_back_end_that_answered_nothing_has_no_figures() -> None:
    with pytest.raises(VariantError, match="no request was answered, with 4 at once"):
        require_answers([result(max_concurrency=1), result(completed=0)])
    require_answers([result(completed=1)])


@pytest.mark.parametrize(
    ("text", "after", "met"),
    [
        ("first_token=-40%", 48.0, True),
        ("first_token=-40", 49.0, False),
        ("ttft=30ms", 30.0, True),
        ("ttft=30", 30.1, False),
        ("p99=-40%", 600.0, True),
        ("output=+40%", 140.0, True),
        ("output=+40", 139.0, False),
        ("output=1400tokens/s", 1400.0, True),
        ("output=1400", 1399.0, False),
        ("memory=+10%", 2.25, False),
        ("memory=2.5 GiB", 2.25, True),
        ("failed=0.001", 0.001, True),
        ("failed=0.001share", 0.002, False),
    ],
)
def test_a_measure_is_compared_with_its_target(text: str, after: float, met: bool) -> None:
    name, target = parse_target(text)
    rows = {row["name"]: row for row in side_by_side(BEFORE, {**BEFORE, name: after}, {name: target})}
    assert rows[name]["met"] is met
    assert rows[name]["verdict"] == ("met" if met else "not met")
    assert list(rows) == [measure["name"] for measure in table("compare")["measure"]]
    assert {(row["met"], row["verdict"]) for row in rows.values() if not row["target"]} == {(None, "")}


def test_a_measure_that_was_zero_has_no_change() -> None:
    rows = {row["name"]: row for row in side_by_side({**BEFORE, "cpu": 0.0}, BEFORE, {"cpu": Target(0.0, True)})}
    assert [rows["cpu"][key] for key in ("change", "met", "verdict")] == [None, None, "not measured"]


def test_the_table_has_every_measure_and_verdict(snapshot: object) -> None:
    after = {**BEFORE, "first_token": 40.0, "output": 130.0, "memory": 2.1}
    targets = dict(map(parse_target, ("ttft=30ms", "output=+20%", "failed=0.001")))
    lines = table_of(
        {
            "kind": "backend",
            "before": {"choice": "TRITON_ATTN", "used": ["TRITON_ATTN"]},
            "after": {"choice": "FLASH_ATTN", "used": ["FLASH_ATTN"], "at_once": 16},
            "load": {"input_tokens": 128, "output_tokens": 16},
            "rows": side_by_side(BEFORE, after, targets),
            "service": {"reason": "firstlight-vllm.service was stopped, and answers correctly again after 90 s"},
        }
    )
    assert "\n".join(lines) == snapshot


Compared = Callable[..., tuple[int, str, list[str]]]
TWO = ("--backend", "A", "--backend", "B")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "compare needs two different back ends, 0 given"),
        (["--backend", "A"], "compare needs two different back ends, 1 given: A"),
        (["--backend", "A", "--backend", "A"], "compare needs two different back ends"),
        ([*TWO, "--target", "speed=3"], "no measure is named `speed`; there are"),
        ([*TWO, "--target", "p99=fast"], "`p99=fast` is no target"),
        ([*TWO, "--target", "p99=3GiB"], "or a value in ms"),
        ([*TWO, "--concurrency", "0"], "'0' is not a whole number above zero"),
    ],
)
def test_wrong_arguments_exit_with_64_and_name_the_error(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        compare_cli.main(arguments)
    assert ended.value.code == 64
    assert words in capsys.readouterr().err


def test_without_a_service_nothing_can_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = compare_cli.main([*TWO, "--prefix", str(tmp_path)])
    assert (code, "no service runs" in capsys.readouterr().err) == (3, True)


@pytest.fixture
def compared(service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Compared:
    """Compare two back ends of a service; return the exit code, the last error, and what was done to the service."""

    def call(**readiness: Any) -> tuple[int, str, list[str]]:
        done: list[str] = []
        asked = replace(service, readiness={**service.readiness, **readiness}, main_pid=os.getpid())
        monkeypatch.setattr(compare_cli, "service_for_load", lambda _prefix: asked)
        monkeypatch.setattr(comparison, "running", lambda _service: SERVE)
        monkeypatch.setattr(service_control, "control", lambda _service, action: done.append(action))
        code = compare_cli.main([*TWO, "--prefix", str(service.prefix)])
        return code, capsys.readouterr().err, done

    return call


def test_a_model_of_several_hosts_is_not_stopped(compared: Compared) -> None:
    text = "error: its model is served together with other hosts, and this host alone cannot serve it\n"
    assert compared(in_span=True) == (3, text, [])


def test_a_service_in_a_container_is_not_stopped(compared: Compared, tmp_path: Path) -> None:
    planned = {"supervisor": "systemd", "name": "vllm", "unit": "[Unit]\n[Container]\nImage=0a1b\n[Service]\n"}
    (tmp_path / "release.json").write_text(json.dumps({"service": planned}))
    text = "error: its model is served in a container, and back ends are measured outside of one\n"
    assert compared() == (3, text, [])


def test_a_service_whose_plan_cannot_be_read_is_not_stopped(compared: Compared, tmp_path: Path) -> None:
    (tmp_path / "release.json").write_text("{")
    code, text, done = compared()
    assert (code, text.startswith("error: cannot read the plan of the service"), done) == (3, True, [])


def test_one_back_end_measured_twice_is_an_error() -> None:
    names = ["FLASH_ATTN", "TRITON_ATTN"]
    with pytest.raises(VariantError, match="used CPU_ATTN both times: nothing was compared"):
        require_difference(names, {"used": ["CPU_ATTN"]}, {"used": ["CPU_ATTN"]})
    require_difference(names, {"used": ["FLASH_ATTN"]}, {"used": ["TRITON_ATTN"]})
