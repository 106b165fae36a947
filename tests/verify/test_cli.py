"""The command line under a Python without torch: usage, exit codes, output."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from verify.binaries import distributions
from verify.cli.arguments import prefix_of
from verify.cli.main import main
from verify.records import Check, CheckContext, CheckResult, Figure
from verify.runner.execution import Injection, run
from verify.runner.registry import all_checks
from verify.runner.report import render

ROOT = Path(__file__).resolve().parents[2]


def verify(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "verify", *arguments]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("called", ["current", "envs/e"])
def test_an_installation_is_named_as_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    """Behind a link its files and its server are recorded by the link's name."""
    (tmp_path / "disk" / "envs" / "e").mkdir(parents=True)
    (tmp_path / "disk" / "current").symlink_to("envs/e")
    (tmp_path / "opt").symlink_to("disk")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "opt" / called))
    assert prefix_of(None) == tmp_path / "opt"
    assert prefix_of(tmp_path / "opt") == tmp_path / "opt"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "kernel"], "no check or family is named `kernel`"),
        (["--skip", "kernels.gem"], "no check or family is named `kernels.gem`"),
        (["--only", "kernels", "--skip", "kernels"], "no check is left"),
        (["--inject", "explosion"], "no fault is named `explosion`; there are wrong-result"),
        (["--inject", "wrong-lock@kernels"], "`kernels` is no check or family that detects `wrong-lock`"),
        (["--lock", "/nowhere/lock.txt"], "no lock at /nowhere/lock.txt"),
        (["--expect", "/nowhere.json"], "No such file or directory: '/nowhere.json'"),
        (["--prefix", "/nowhere"], "not to /nowhere/current; run /nowhere/current/bin/python"),
        (["--hours", "2"], "--hours is the length of level burn-in, and the level is standard"),
        (["--level", "burn-in", "--hours", "0"], "'0' is not a number above zero"),
        (["--level", "burn-in", "--only", "libraries.lock"], "level burn-in repeats checks of devices, kernels"),
        (["--deadline", "-1"], "'-1' is not a number above zero"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_wrong_option_exits_with_64_and_names_the_error(arguments: list[str], words: str) -> None:
    done = verify(*arguments)
    assert done.returncode == 64
    assert words in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("before", [None, "/usr/local/lib"])
def test_the_checks_load_the_stacks_compatibility_libraries_as_the_service_does(
    tmp_path: Path, before: str | None
) -> None:
    """The loader reads its search path when a program starts, so the checks start again once with that path."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    (tmp_path / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    stack = {"cuda_compat": {"cuda": "13.0", "package": "cuda-compat-13-0", "folder": "/usr/local/cuda-13.0/compat"}}
    program = tmp_path / "program.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT)!r})\nprint('started', flush=True)\n"
        "from verify.binaries.distributions import restart_with_compat\nrestart_with_compat()\nprint(os.environ.get('LD_LIBRARY_PATH'), sys.argv[1:], sys.stdin.read())\n"
    )
    environment = {"PATH": os.environ["PATH"]} | ({"LD_LIBRARY_PATH": before} if before else {})

    def started() -> list[str]:
        command = [str(python), "-I", str(program), "a b"]
        done = subprocess.run(command, env=environment, input="asked", capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert started() == ["started", f"{before} ['a b'] asked"]
    (tmp_path / "stack.json").write_text(json.dumps(stack))
    path = ":".join(["/usr/local/cuda-13.0/compat", *([before] if before else [])])
    assert started() == ["started", "started", f"{path} ['a b'] asked"]
    (tmp_path / "stack.json").write_text("{")
    assert started() == ["started", f"{before} ['a b'] asked"]


@pytest.mark.parametrize(
    ("state", "gpus"),
    [
        ({"environment": "e1", "stack": {"gpus": [4, 5]}}, [4, 5]),
        ({"environment": "e2", "stack": {"gpus": [4, 5]}}, [0, 1]),
        ({"environment": "e1"}, [0, 1]),
        (None, [0, 1]),
    ],
)
def test_what_the_live_release_changes_in_the_plan_of_its_environment_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: object, gpus: list[int]
) -> None:
    """Other GPUs and another attention need no other environment, so its own file keeps the first ones."""
    environment = tmp_path / "envs" / "e1"
    environment.mkdir(parents=True)
    (environment / "stack.json").write_text('{"torch": {"variant": "cu130"}, "gpus": [0, 1]}')
    (tmp_path / "current").symlink_to(environment)
    if state:
        (tmp_path / "state.json").write_text(json.dumps(state))
    seen: list[CheckContext] = []

    def see(_checks: object, context: CheckContext, *_others: object) -> dict[str, object]:
        seen.append(context)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "prefix", str(tmp_path / "current"))
    monkeypatch.setattr("verify.cli.main.run", see)
    with pytest.raises(SystemExit):
        main(["--level", "quick"])
    assert [context.stack for context in seen] == [{"torch": {"variant": "cu130"}, "gpus": gpus}]


@pytest.mark.parametrize("command", ["soak", "upgrade", "multihost"])
def test_commands_that_compute_load_them_too(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "restart_with_compat", lambda: sys.exit("started again"))
    with pytest.raises(SystemExit, match="started again"):
        main([command, "--help"])


def test_invalid_expectations_are_refused() -> None:
    done = verify("--expect", "-", stdin="[1, 2]")
    assert (done.returncode, "- holds no JSON object" in done.stderr) == (64, True)


def test_without_torch_one_check_fails_and_those_that_depend_on_it_are_skipped(tmp_path: Path) -> None:
    done = verify("--level", "quick", "--json", "--write", str(tmp_path / "new" / "last.json"))
    assert done.returncode == 2
    document = json.loads(done.stdout)
    assert json.loads((tmp_path / "new" / "last.json").read_text()) == document
    outcomes = {check["id"]: (check["status"], check["reason"]) for check in document["checks"]}
    failed = {name: reason for name, (status, reason) in outcomes.items() if status not in ("ok", "skip")}
    assert failed.keys() == {"libraries.torch_build"}
    assert "No module named 'torch'" in failed["libraries.torch_build"]
    assert outcomes["kernels.gemm"] == outcomes["attention.sdpa_flash"] == ("skip", "needs libraries.torch_build")


def test_a_selected_check_runs_with_its_dependencies() -> None:
    done = verify("--only", "kernels.vector_add", "--skip", "devices", "--list", "--json")
    assert {row["id"]: row["requires"] for row in json.loads(done.stdout)} == {
        "devices.driver": [],
        "devices.modes": ["devices.driver"],
        "devices.torch": ["libraries.torch_build", "devices.driver"],
        "libraries.torch_build": [],
        "kernels.vector_add": ["devices.torch", "devices.modes"],
    }


def test_results_that_cannot_be_written_are_printed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    place = str(tmp_path / "file" / "last.json")
    done = verify("--only", "libraries.lock", "--json", "--write", place)
    assert done.returncode == 3
    assert json.loads(done.stdout)["checks"][0]["id"] == "libraries.lock"
    assert f"error: {place} cannot be written: " in done.stderr
    assert "Traceback" not in done.stderr


def test_results_that_nobody_reads_are_written(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "verify", "--only", "libraries.lock", "--write", str(tmp_path / "last.json")]
    subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.DEVNULL, check=False)
    os.close(writing)
    assert json.loads((tmp_path / "last.json").read_text())["checks"][0]["id"] == "libraries.lock"


def test_the_list_describes_every_check_once_in_order() -> None:
    done = verify("--list", "--level", "full")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    rows: dict[str, str] = {}
    for line in done.stdout.splitlines():
        id_, level, text = line[:26].strip(), line[26:36].strip(), line[36:]
        if id_:
            last = id_
            rows[last] = f"{level} {text}"
        else:
            rows[last] += f" {text}"
    assert list(rows.items()) == [(check.id, f"{check.level} {check.description}") for check in all_checks()]
    ids = [row["id"] for row in json.loads(verify("--list", "--level", "full", "--json").stdout)]
    assert ids == list(rows)


def test_levels_contain_one_another() -> None:
    quick, standard, full, burn_in = (
        {row["id"] for row in json.loads(verify("--list", "--json", "--level", level).stdout)}
        for level in ("quick", "standard", "full", "burn-in")
    )
    assert quick < standard <= full == burn_in


def checks() -> list[Check]:
    """Return one check for each status, and one that crashes."""

    def answer(outcome: CheckResult) -> Check:
        return Check(f"kernels.{outcome.status}", "Proves nothing.", lambda _: outcome, faults=("slow",))

    def broken(_: CheckContext) -> CheckResult:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    figures = (Figure("error", float("nan"), "share of bound", ceiling=1.0, source="a book"),)
    return [
        answer(CheckResult("ok", "all is well")),
        answer(CheckResult("skip", "no such device")),
        answer(CheckResult("warn", "slower than it should be " * 8, figures, remedy="look at the fans")),
        answer(CheckResult("fail", "wrong", evidence={"call": "a @ b"})),
        Check("kernels.broken", "Breaks.", broken),
    ]


@pytest.mark.parametrize(
    ("places", "status"),
    [
        ([], "error"),
        ([0], "ok"),
        ([1], "skip"),
        ([0, 1], "ok"),
        ([0, 2], "warn"),
        ([2, 3], "fail"),
        ([3, 4], "error"),
        ([0, 4], "error"),
    ],
)
def test_a_run_is_as_good_as_its_worst_check(places: list[int], status: str) -> None:
    document = run([checks()[place] for place in places], CheckContext())
    assert document["status"] == status


def test_the_table_is_readable(snapshot: object) -> None:
    document = run(checks(), CheckContext())
    for record in document["checks"]:
        record["seconds"] = 0.25
        if record["evidence"] and "output" in record["evidence"]:
            record["evidence"]["output"] = record["evidence"]["output"].splitlines()[-1]
    table = render({**document, "seconds": 1.5, "python": "3.12.1", "torch": "2.13.0+cpu"})
    assert table == snapshot
    assert max(map(len, table.splitlines())) <= 100


def test_a_document_with_an_invalid_figure_is_valid_json() -> None:
    document = run(checks(), CheckContext())
    (figure,) = next(check["figures"] for check in document["checks"] if check["id"] == "kernels.warn")
    assert figure == {
        "name": "error", "value": None, "unit": "share of bound", "floor": None, "ceiling": 1.0, "source": "a book",
    }  # fmt: skip
    json.dumps(document, allow_nan=False)


def test_an_injected_fault_hits_only_its_target() -> None:
    everything, one = Injection("slow", None), Injection("slow", "kernels.ok")
    ok, broken = checks()[0], checks()[-1]
    assert everything.hits(ok)
    assert not everything.hits(broken)
    assert one.hits(ok)
    assert not one.hits(checks()[1])
    assert Injection("hang", None).hits(broken)
    assert Injection("hang", "kernels").hits(broken)
    assert not Injection("hang", "devices").hits(broken)
