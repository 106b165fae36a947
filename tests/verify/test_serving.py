"""The service of a host: how it is found, measured under load, and evaluated."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import pytest

from tests.waiting import wait_until
from verify.checks.serving.requests import evaluate_load as evaluate
from verify.checks.serving.requests import load as run
from verify.cli import load as load_cli
from verify.host import devices
from verify.records import CheckContext
from verify.runner.child_processes import ChildResult, run_one
from verify.serving import comparison
from verify.serving import service as own_service
from verify.serving.service import Service
from verify.tables import table

LOAD = table("serving")["load"]
OPTIONS = (
    "base-url", "model", "tokenizer", "served-model-name", "dataset-name", "random-input-len", "random-output-len", "seed",
    "num-prompts", "max-concurrency", "percentile-metrics", "metric-percentiles", "result-dir", "result-filename",
    "request-rate",
)  # fmt: skip
"""Options of the tool in 0.32.0 that are used; each takes a value."""
READINESS = {
    "host": "0.0.0.0",
    "port": 8021,
    "unit": "firstlight-vllm.service",
    "served_name": "small",
    "model_folder": "/models/small",
}


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation that serves."""
    home = tmp_path / "home"
    (home / "envs" / "ab12" / "bin").mkdir(parents=True)
    (home / "current").symlink_to("envs/ab12")
    (home / "etc").mkdir()
    (home / "etc" / "service.env").write_text("HF_HUB_OFFLINE=1\nVLLM_API_KEY=the-key-itself\n")
    (home / "state.json").write_text(json.dumps({"environment": "ab12", "readiness": READINESS}))
    return home


def served(prefix: Path) -> Service:
    """Return the service of an installation that has one."""
    found = own_service.find(prefix)
    assert found is not None
    return found


@pytest.fixture
def running(prefix: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process with the server's command line, and a child process."""
    program = prefix / "envs" / "ab12" / "bin" / "vllm"
    program.write_text("import subprocess; subprocess.run(['sleep', '600'])\n")
    process = subprocess.Popen([sys.executable, str(prefix / "current/bin/vllm"), "serve"], start_new_session=True)
    # The caller continues a moment before the kernel shows the new program's command line, and that before its child.
    wait_until(lambda: len(served(prefix).pids()) >= 2, "it has no child process")
    yield process
    os.killpg(process.pid, 9)
    process.wait()


def test_the_service_and_its_processes_are_found(prefix: Path, running: subprocess.Popen[bytes]) -> None:
    found = served(prefix)
    assert found.main_pid == running.pid
    assert len(found.pids()) == 2
    assert os.getpid() not in found.pids()
    assert (found.url, found.name, found.api_key()) == (
        "http://127.0.0.1:8021",
        "firstlight-vllm.service",
        "the-key-itself",
    )


@pytest.mark.parametrize(
    "state",
    ["", "{", json.dumps({"environment": "ab12", "readiness": None}), json.dumps({"environment": "cd34"})],
    ids=["empty", "broken", "serves nothing", "of another environment"],
)
def test_an_installation_that_serves_nothing_has_no_service(prefix: Path, state: str) -> None:
    (prefix / "state.json").write_text(state)
    assert own_service.find(prefix) is None


def test_a_service_that_does_not_run_has_no_process(prefix: Path) -> None:
    found = served(prefix)
    assert (found.main_pid, found.pids()) == (None, ())


def test_an_ipv6_address_is_written_in_brackets(prefix: Path) -> None:
    assert Service(prefix, {**READINESS, "host": "::"}, 1).url == "http://[::1]:8021"


def tool(calls: list[dict[str, Any]]) -> ModuleType:
    """A substitute for vllm.benchmarks.serve that records its arguments and writes a result."""
    module = ModuleType("vllm.benchmarks.serve")

    def add_cli_args(parser: argparse.ArgumentParser) -> None:
        for name in OPTIONS:
            parser.add_argument(f"--{name}", required=not name.startswith(("result-", "request-")))
        for name in ("ignore-eos", "disable-tqdm"):
            parser.add_argument(f"--{name}", action="store_true", required=True)
        parser.add_argument("--save-result", action="store_true")

    def main(options: argparse.Namespace) -> None:
        by_proxy = not proxy_bypass(urlsplit(options.base_url).hostname or "")
        key = os.environ["OPENAI_API_KEY"]
        calls.append({**vars(options), "key": key, "argv": sys.argv, "by_proxy": by_proxy})
        result = {"num_prompts": int(options.num_prompts), "completed": int(options.num_prompts)}
        if options.save_result:
            Path(options.result_dir, options.result_filename).write_text(json.dumps(result))

    module.__dict__.update(add_cli_args=add_cli_args, main=main)
    return module


def measured(
    prefix: Path, load: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *, warmed: bool = False
) -> tuple[list[Any], list[Any]]:
    """Return results and calls of a measurement in a process of its own, as in a check."""
    service = served(prefix)

    def call() -> Any:
        calls: list[dict[str, Any]] = []
        package, module = ModuleType("vllm.benchmarks"), tool(calls)
        package.__dict__["serve"] = module
        for name, value in (("vllm", ModuleType("vllm")), ("vllm.benchmarks", package), (module.__name__, module)):
            monkeypatch.setitem(sys.modules, name, value)
        return list(comparison.under_load(service, load, warmed=warmed)), calls

    ending = run_one(call, deadline_s=60)
    assert ending.problem is None, ending.output
    results, calls = ending.value
    return results, calls


def test_the_tool_runs_for_each_concurrency_with_the_key_in_its_environment(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "10.0.0.1")
    results, calls = measured(prefix, LOAD, monkeypatch)
    assert [result["max_concurrency"] for result in results] == [1, 4, 16]
    assert [call["num_prompts"] for call in calls] == ["8", "16", "32"]
    assert {call["base_url"] for call in calls} == {"http://127.0.0.1:8021"}
    assert {call["key"] for call in calls} == {"the-key-itself"}
    assert {call["by_proxy"] for call in calls} == {False}
    assert not [word for call in calls for word in call["argv"] if "the-key-itself" in word]
    assert "OPENAI_API_KEY" not in os.environ


def test_a_compared_server_is_warmed_up_at_each_concurrency_and_a_slow_one_measured_with_single_requests(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, calls = measured(prefix, {**LOAD, "budget_s": 0.0}, monkeypatch, warmed=True)
    asked = [(call["max_concurrency"], call["num_prompts"], call["save_result"]) for call in calls]
    assert asked == [("1", "1", False), ("4", "4", False), ("16", "16", False), ("1", "8", True)]
    assert [result["max_concurrency"] for result in results] == [1]


def test_a_server_is_not_warmed_up_for_as_long_as_a_rate_is_measured(
    prefix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = {**LOAD, "rate": 5.0, "concurrencies": [200], "requests": [200]}
    _, calls = measured(prefix, load, monkeypatch, warmed=True)
    assert [call["num_prompts"] for call in calls] == ["16", "200"]


def add_prompts(load: dict[str, Any]) -> list[str]:
    """Return the tool's arguments of a load, without those that all loads have."""
    service = Service(Path("/srv"), READINESS, 1)
    words = comparison.arguments(service, concurrency=4, requests=8, load=load, dataset="/tmp/prompts.json")
    return words[words.index("small") + 1 : words.index("--percentile-metrics")]


def test_the_tool_reads_a_tokenizer_that_is_code_where_the_service_does() -> None:
    command = [sys.executable, "-c", "print(flush=True); input()"]
    for trust in ([], ["--trust-remote-code"]):
        with subprocess.Popen([*command, *trust], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # before it runs, its arguments may not be there to read
            service = Service(Path("/srv"), READINESS, process.pid)
            load = {"input_tokens": 128, "output_tokens": 16}
            assert comparison.arguments(service, concurrency=4, requests=8, load=load)[-1:] == (
                trust or ["--disable-tqdm"]
            )


def test_prompts_of_a_file_and_a_rate_are_those_of_the_tool() -> None:
    common = ["--ignore-eos", "--seed", "4", "--num-prompts", "8", "--max-concurrency", "4"]
    dataset = ["--dataset-name", "sharegpt", "--dataset-path", "/tmp/prompts.json"]
    random = ["--dataset-name", "random", "--random-input-len", "128", "--random-output-len", "16"]
    assert add_prompts({"input_tokens": 128, "output_tokens": 16}) == [*random, *common]
    assert add_prompts({"input_tokens": 128, "output_tokens": 16, "rate": 2.5}) == [
        *random,
        *common,
        "--request-rate",
        "2.5",
    ]
    assert add_prompts({"dataset": "ab12", "input_tokens": None, "output_tokens": None}) == [*dataset, *common]
    assert add_prompts({"dataset": "ab12", "input_tokens": None, "output_tokens": 64}) == [
        *dataset,
        "--sharegpt-output-len",
        "64",
        *common,
    ]


def result(at_once: int, *, asked: int = 1000, answered: int = 1000, speed: float = 90.0) -> dict[str, Any]:
    """Return a result as the tool of 0.32.0 writes it, with the keys that are read."""
    return {
        "max_concurrency": at_once,
        "num_prompts": asked,
        "completed": answered,
        "duration": 2.5,
        "output_throughput": speed,
        **{f"p{percent}_{metric}_ms": float(percent) for percent in (50, 90, 99) for metric in ("ttft", "itl", "e2el")},
    }


def test_speeds_are_recorded_and_the_fastest_is_reported() -> None:
    outcome = evaluate([result(1), result(4, speed=240.4)], {})
    assert outcome.status == "ok"
    assert (
        outcome.reason
        == "2000 requests answered; at most 240 tokens/s, 4 at once; first token after 50 ms (median, alone)"
    )
    values = {figure.name: (figure.value, figure.unit) for figure in outcome.figures}
    assert values["first token p90, 4 at once"] == (90.0, "ms")
    assert values["between tokens p99, 1 at once"] == (99.0, "ms")
    assert values["output, 4 at once"] == (240.4, "tokens/s")


@pytest.mark.parametrize(("answered", "status"), [(1000, "ok"), (999, "ok"), (998, "fail"), (0, "fail")])
def test_more_than_one_request_in_a_thousand_without_an_answer_is_a_failure(answered: int, status: str) -> None:
    outcome = evaluate([result(1, answered=answered)], {})
    assert outcome.status == status
    if status == "fail":
        assert outcome.reason == f"{1000 - answered} of 1000 requests got no answer"


@pytest.mark.parametrize(("cores", "skipped"), [(0.0, False), (0.2, False), (0.3, True), (2.0, True)])
def test_measurements_are_skipped_while_the_service_uses_the_cpus(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, cores: float, skipped: bool
) -> None:
    monkeypatch.setattr(Service, "cores", lambda *_: cores)
    outcome = devices.skip_if_busy(CheckContext(device="cpu", service=Service(prefix, READINESS, 1)))
    assert (outcome is not None) == skipped
    assert devices.skip_if_busy(CheckContext(device="cpu", service=Service(prefix, READINESS, None))) is None
    if outcome:
        assert (outcome.status, outcome.remedy) == ("skip", "stop the service for the checks: --drain")
        assert f"firstlight-vllm.service is running and keeps {cores:.1f} cores busy" in outcome.reason


@pytest.mark.parametrize(
    ("main_pid", "words", "remedy"),
    [
        (1, "firstlight-vllm.service is running and uses 95% of the device's 80 GiB", "--drain"),
        (None, "other processes use 95% of the device's 80 GiB", "nvidia-smi"),
    ],
)
def test_gpu_memory_of_our_service_is_distinguished_from_that_of_others(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, main_pid: int | None, words: str, remedy: str
) -> None:
    monkeypatch.setattr(devices, "memory", lambda _: (4 << 30, 80 << 30))
    outcome = devices.skip_if_busy(CheckContext(device="cuda:0", service=Service(prefix, READINESS, main_pid)))
    assert outcome is not None
    assert words in outcome.reason
    assert remedy in (outcome.remedy or "")


def test_without_a_service_no_load_is_measured() -> None:
    assert run(CheckContext()).status == "skip"


def load_named(*words: str) -> dict[str, Any]:
    """Return the load of `verify load` with these words, without what serving.toml alone says."""
    parser = argparse.ArgumentParser()
    load_cli.add_load(parser)
    for name, kind in (("--rate", float), ("--requests", int)):
        parser.add_argument(name, type=kind)
    return load_cli.load_of(parser.parse_args(words))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ((), {"concurrencies": [1, 4, 16], "requests": [8, 16, 32], "input_tokens": 128}),
        (("--concurrency", "8"), {"concurrencies": [8], "requests": [16], "rate": None}),
        (("--concurrency", "8", "--requests", "100"), {"concurrencies": [8], "requests": [100]}),
        (("--rate", "2.5"), {"concurrencies": [25], "requests": [25], "rate": 2.5}),
        (("--rate", "0.1", "--concurrency", "2"), {"concurrencies": [2], "requests": [8]}),
        (("--input-tokens", "2000", "--output-tokens", "300"), {"input_tokens": 2000, "output_tokens": 300}),
    ],
)
def test_a_load_has_the_lengths_concurrency_and_rate_that_were_named(
    words: tuple[str, ...], found: dict[str, Any]
) -> None:
    load = load_named(*words)
    assert {name: load[name] for name in found} == found


def test_a_load_is_compared_with_the_last_one_of_its_kind_that_was_answered_and_kept_with_its_release(
    prefix: Path, running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(speed: float, release: str, *words: str, answered: int = 1000) -> dict[str, Any]:
        state = {"environment": "ab12", "readiness": {**READINESS, "release": release}}
        (prefix / "state.json").write_text(json.dumps(state))
        monkeypatch.setattr(load_cli, "under_load", lambda *_, **__: [result(1, answered=answered, speed=speed)])
        assert load_cli.main(["--prefix", str(prefix), "--json", *words]) == (0 if answered == 1000 else 2)
        document: dict[str, Any] = json.loads(capsys.readouterr().out)
        return document

    first = measure(100.0, "r1")
    assert (first["release"], first["before"]) == ("r1", None)
    assert first["table"][-1] == "no earlier measurement of this load"
    assert measure(50.0, "r1", "--concurrency", "1")["before"] is None
    assert measure(500.0, "r2", answered=10)["before"]["release"] == "r1"
    again = measure(90.0, "r2")
    (output,) = (row for row in again["rows"] if row["name"] == "output, 1 at once")
    assert output == {"name": "output, 1 at once", "unit": "tokens/s", "value": 90.0, "before": 100.0, "change": -0.1}
    assert again["before"]["release"] == "r1"
    assert again["table"][-1].startswith("before: another release, measured at ")
    assert " -10.0%" in "\n".join(again["table"])
    kept = json.loads((prefix / "verify" / "loads.json").read_text())["loads"]
    assert [one["release"] for one in kept] == ["r1", "r1", "r2", "r2"]


@pytest.mark.parametrize(
    ("words", "limit_s"),
    [(("--rate", "0.5", "--requests", "1000"), 1800 + 4000), (("--concurrency", "8"), 1800)],
    ids=["requests that arrive slowly", "requests at once"],
)
def test_a_load_may_last_as_long_as_its_requests_take_to_arrive(
    prefix: Path,
    running: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    limit_s: int,
) -> None:
    limits = []

    def measured(_call: object, *, deadline_s: float) -> ChildResult:
        limits.append(deadline_s)
        return ChildResult([result(1)], None, "", 0.0)

    monkeypatch.setattr(load_cli, "run_one", measured)
    assert load_cli.main(["--prefix", str(prefix), *words]) == 0
    assert limits == [limit_s]


def test_prompts_come_from_a_file_and_their_digest_is_part_of_the_load(
    prefix: Path, running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = prefix / "prompts.json"
    prompts.write_text('[{"conversations": [{"value": "How far is the Moon?"}, {"value": "Far."}]}]')

    def measure(
        _service: Service, load: dict[str, Any], *, dataset: str, warmed: bool, **_: object
    ) -> list[dict[str, Any]]:
        assert (Path(dataset).read_text(), load["input_tokens"], warmed) == (prompts.read_text(), None, True)
        return [result(1)]

    monkeypatch.setattr(load_cli, "under_load", measure)
    assert load_cli.main(["--prefix", str(prefix), "--dataset", str(prompts), "--json"]) == 0
    digest = hashlib.sha256(prompts.read_bytes()).hexdigest()
    assert json.loads(capsys.readouterr().out)["load"]["dataset"] == digest


@pytest.mark.parametrize("from_file", [True, False])
def test_the_same_prompts_of_a_file_are_sent_each_time_and_other_random_ones(
    prefix: Path, running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, *, from_file: bool
) -> None:
    seeds, prompts = prefix / "seeds", prefix / "prompts.json"
    prompts.write_text("[]")
    clock = iter((1000.5, 1001.5))
    monkeypatch.setattr(load_cli, "time", SimpleNamespace(**{**vars(time), "time": lambda: next(clock)}))

    def measure(*_: object, seed: int, **__: object) -> list[dict[str, Any]]:
        with seeds.open("a") as file:
            file.write(f"{seed}\n")
        return [result(1)]

    monkeypatch.setattr(load_cli, "under_load", measure)
    for _ in range(2):
        assert load_cli.main(["--prefix", str(prefix), *(["--dataset", str(prompts)] if from_file else [])]) == 0
    first, second = seeds.read_text().split()
    assert (first == second) is from_file


def test_a_load_that_the_tool_refuses_is_an_error_and_is_not_kept(
    prefix: Path, running: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*_: object, **__: object) -> list[dict[str, Any]]:
        raise ValueError("no such prompts")

    monkeypatch.setattr(load_cli, "under_load", measure)
    assert load_cli.main(["--prefix", str(prefix), "--json"]) == 3
    assert capsys.readouterr().err == "error: cannot measure under load: ValueError: no such prompts\n"
    assert not (prefix / "verify" / "loads.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--dataset", "x.json", "--input-tokens", "9"), 64, "leave out --input-tokens"),
        (("--requests", "9"), 64, "--requests belongs to --rate or --concurrency"),
        (("--rate", "0"), 64, "'0' is not a number above zero"),
        ((), 3, "no service runs from this environment\n\nhint: start it"),
    ],
)
def test_a_load_that_cannot_be_measured_names_the_error(
    words: tuple[str, ...], code: int, text: str, prefix: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = load_cli.main(["--prefix", str(prefix), *words])
    except SystemExit as ended:
        found = int(ended.code or 0)
    assert (found, text in capsys.readouterr().err) == (code, True)
