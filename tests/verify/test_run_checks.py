"""The one file that is sent to hosts, and the handling of their answers."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from provision.core.errors import TransportError
from provision.core.models.facts import HostFacts, Nvidia, NvidiaGpu, Program
from provision.core.models.inventory import Connection
from provision.core.models.records import CheckRecord
from provision.fleet.ssh import Completed
from provision.fleet.ssh.local import LocalSession
from provision.phases.verify import run_checks
from provision.phases.verify.run_checks import CheckOptions, container_command, read, verify
from provision.phases.verify.tool import STAYS_HERE, Picked, build_zipapp, zipapp
from provision.pipeline.operations import checks_table
from tests.verify.localhost import LOCALHOST, program
from verify.records import LEVELS, Level
from verify.runner.registry import all_checks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    built = build_zipapp(tmp_path / "verify.pyz")
    program = "from provision.phases.verify.tool import zipapp; import sys; sys.stdout.buffer.write(zipapp())"
    other = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "0"},
        capture_output=True,
        check=True,
    )
    assert hashlib.sha256(other.stdout).digest() == hashlib.sha256(built.read_bytes()).digest()


def test_the_file_has_only_code_and_tables(tmp_path: Path) -> None:
    built = build_zipapp(tmp_path / "verify.pyz")
    names = zipfile.ZipFile(built).namelist()
    assert {Path(name).suffix for name in names} == {".py", ".json"}
    assert not [name for name in names if "__pycache__" in name]
    assert not STAYS_HERE & set(names)
    assert all((ROOT / path).is_file() for path in STAYS_HERE)
    tables = {f"verify/data/{path.stem}.json" for path in (ROOT / "verify/data").glob("*.toml")}
    assert {name for name in names if not name.endswith(".py")} == {*tables, "verify/doctor/causes.json"}
    assert built.stat().st_size < 500_000
    assert os.access(built, os.X_OK)


def pythons() -> list[str]:
    """Return this Python and an interpreter of each other release on this machine."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for minor in (10, 12, 13, 14):
        pyenv = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        path = shutil.which(f"python3.{minor}", path="/usr/local/bin:/usr/bin") or next(map(str, pyenv), None)
        if path:
            found[f"3.{minor}"] = path
    return list(found.values())


@pytest.mark.parametrize("python", pythons())
def test_every_python_runs_it(python: str, tmp_path: Path) -> None:
    """Each table is read at least once: in the file they are JSON, because Python 3.10 reads no TOML."""
    built = build_zipapp(tmp_path / "verify.pyz")
    done = subprocess.run(
        [python, "-I", built, "--json", "--only", "libraries"], capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    assert (done.returncode, document["status"]) == (2, "fail")
    assert document["python"].startswith("3.")
    names = sorted(path.stem for path in (ROOT / "verify" / "data").glob("*.toml"))
    program = (
        f"import sys; sys.path.insert(0, {str(built)!r}); from verify.tables import table; [table(n) for n in {names}]"
    )
    assert subprocess.run([python, "-I", "-c", program], check=False).returncode == 0


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation whose environment has no torch."""
    home = tmp_path / "pre fix"
    environment = home / "envs" / "ab12"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (environment / "lock.txt").write_text("torch==2.13.0 --hash=sha256:00\n")
    (environment / "stack.json").write_text(json.dumps({"torch": {"version": "2.13.0", "variant": "cpu"}}))
    (home / "current").symlink_to("envs/ab12")
    return home


def test_a_host_is_checked_and_stores_the_document(prefix: Path) -> None:
    answer = verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick"))
    records = {check.id: check for check in answer.checks}
    assert answer.exit_code == 2
    assert records["libraries.lock"].status == "fail"
    assert records["libraries.lock"].reason == "missing: torch"
    assert "No module named 'torch'" in records["libraries.torch_build"].reason
    assert {check.host for check in answer.checks} == {"localhost"}
    kept = json.loads((prefix / "verify" / "last.json").read_text())
    assert kept["started_at"] == answer.document["started_at"]
    assert [check["status"] for check in kept["checks"]] == [check.status for check in answer.checks]


def test_a_lasting_warning_is_kept_by_runs_that_do_not_measure(prefix: Path) -> None:
    warned = {"id": "collectives.peers", "status": "warn", "reason": "writes do not arrive"}
    (prefix / "verify").mkdir()
    kept = prefix / "verify" / "last.json"
    kept.write_text(json.dumps({"checks": [warned, {"id": "kernels.gemm", "status": "warn", "reason": "x"}]}))
    for _ in range(2):
        answer = verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick"))
        assert answer.document["carried"] == json.loads(kept.read_text())["carried"] == [warned]


def test_only_selected_checks_run_and_the_last_complete_run_is_kept(prefix: Path) -> None:
    (prefix / "verify").mkdir()
    (prefix / "verify" / "last.json").write_text("whole")
    picked = Picked(only=("libraries.lock", "devices.xid"), skip=("devices",), inject=("wrong-lock@libraries.lock",))
    answer = verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick", selection=picked))
    assert {check.id for check in answer.checks} == {"libraries.lock"}
    assert answer.document["injected"] == ["wrong-lock"]
    assert (prefix / "verify" / "last.json").read_text() == "whole"


def test_the_tool_of_this_release_runs_and_the_installed_one_stays_unchanged(prefix: Path) -> None:
    """Otherwise `status` would report it as changed by hand, and the next run of the installed release would repair it."""
    installed, bundled = prefix / "bin" / "verify.pyz", prefix / "verify" / "verify.pyz"
    installed.parent.mkdir()
    installed.write_text("print('an older release')")
    sums = f"{hashlib.sha256(installed.read_bytes()).hexdigest()}  {installed}\n"
    assert len(verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick")).checks) > 1
    assert subprocess.run(["sha256sum", "--quiet", "-c"], input=sums.encode(), check=False).returncode == 0
    assert bundled.read_bytes() == zipapp()
    written = bundled.stat().st_mtime_ns
    verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick"))
    assert bundled.stat().st_mtime_ns == written


def test_an_installation_of_this_release_is_checked_by_its_own_tool(prefix: Path) -> None:
    build_zipapp(prefix / "bin" / "verify.pyz")
    assert len(verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick")).checks) > 1
    assert not (prefix / "verify" / "verify.pyz").exists()


def test_an_environment_that_is_not_live_yet_is_checked_by_its_digest(prefix: Path) -> None:
    other = prefix / "envs" / "cd34"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", other], check=True)
    (other / "lock.txt").write_text("jax==0.1 --hash=sha256:00\n")
    session = LocalSession("gpu-1", Connection(kind="local"))
    answer = verify(session, prefix=str(prefix), environment="cd34", options=CheckOptions("quick"))
    assert next(check.reason for check in answer.checks if check.id == "libraries.lock") == "missing: jax"
    assert (
        only(verify(session, prefix=str(prefix), environment="ef56")).reason == f"no environment at {prefix}/envs/ef56"
    )


def test_expectations_are_sent_to_the_host(prefix: Path) -> None:
    answer = verify(LOCALHOST, prefix=str(prefix), expect={"stack": {"vllm": None}})
    reasons = {check.id: check.reason for check in answer.checks}
    assert reasons["engine.vllm"] == "the plan has no vLLM"


def test_the_number_and_name_of_the_running_check_are_reported(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (prefix / "verify").mkdir()
    monkeypatch.setattr(run_checks, "FOLLOW_S", 0.05)
    words = ["--only", "libraries.lock", "--inject", "hang", "--deadline", "3"]
    monkeypatch.setattr(Picked, "words", property(lambda _: words))
    reported: list[str] = []
    picked = Picked(only=("libraries.lock",), skip=(), inject=("hang",))
    answer = verify(
        LOCALHOST, prefix=str(prefix), options=CheckOptions("quick", selection=picked), progress=reported.append
    )
    assert [check.status for check in answer.checks] == ["error"]
    assert {*reported} == {"1/1 libraries.lock"}
    assert (prefix / "verify" / "progress").read_text() == ""


def test_kernels_and_libraries_are_checked_in_the_container_too(
    prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for podman, which runs the command on this machine."""
    image = "d" * 64
    run = f'while [ "$1" != {image} ]; do shift; done\nshift\nexec "$@"'
    program(tmp_path / "podman", f'echo "$*" >{tmp_path}/asked\n{run}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    facts = HostFacts(
        host="localhost",
        probed_at="2026-11-20T08:00:00.000Z",
        nvidia=Nvidia(gpus=(NvidiaGpu(index=0),)),
        programs=(Program(name="nvidia-ctk", path="/usr/bin/nvidia-ctk"),),
    )
    common: dict[str, Any] = {"prefix": str(prefix), "options": CheckOptions("quick")}
    common["container"] = container_command(str(prefix), image, facts)
    [*checks, record] = verify(LOCALHOST, **common).checks
    assert len(checks) > 1
    assert (record.id, record.status) == ("frame.container", "fail")
    assert record.reason.startswith("in the service's container, libraries.")
    asked = (tmp_path / "asked").read_text()
    assert f"--device=nvidia.com/gpu=all --volume={prefix}:{prefix}:ro {image} {prefix}/current/bin/python -I" in asked
    assert "--only libraries --only kernels --only attention --only operators --only engine" in asked
    program(tmp_path / "podman", "echo 'Error: no such image' >&2\nexit 125")
    record = verify(LOCALHOST, **common).checks[-1]
    assert (record.status, "Error: no such image" in record.reason) == ("error", True)


def only(answer: object) -> CheckRecord:
    (check,) = answer.checks  # type: ignore[attr-defined]
    assert check.id == "frame.run"
    assert check.status == "error"
    return check  # type: ignore[no-any-return]


def test_a_host_without_an_environment_gets_a_remedy(tmp_path: Path) -> None:
    check = only(verify(LOCALHOST, prefix=str(tmp_path)))
    assert check.reason == f"no environment at {tmp_path}/current"
    assert check.remedy == "install it first: ./firstlight provision"


def test_an_interpreter_that_crashes_is_an_error_with_its_output(prefix: Path) -> None:
    text = "libpython3.12.so.1.0: cannot open shared object file"
    program(prefix / "envs/ab12/bin/python", f"echo '{text}' >&2\nkill -SEGV $$")
    check = only(verify(LOCALHOST, prefix=str(prefix)))
    assert text in check.reason


@pytest.mark.parametrize(
    "stdout",
    [
        "",
        "Welcome to node 7!\n",
        '{"checks": [',
        "[]",
        '{"checks": [{"id": "x"}]}',
        '{"checks": ["x"]}',
        '{"checks": []}',
    ],
)
def test_garbage_is_an_error_and_never_green(stdout: str) -> None:
    answer = read("gpu-1", Completed(0, stdout, ""), environment="/opt/firstlight/current")
    check = only(answer)
    assert answer.exit_code == 3
    assert check.host == "gpu-1"
    assert answer.document["checks"][0]["status"] == "error"


def test_keys_of_another_release_are_ignored() -> None:
    check = {
        "id": "a.b",
        "family": "a",
        "status": "ok",
        "new": 1,
        "figures": [{"name": "n", "value": 1, "unit": "s", "more": 2}],
    }
    answer = read("gpu-1", Completed(0, json.dumps({"checks": [check]}), ""), environment="/p/current")
    assert (answer.checks[0].figures[0].value, answer.checks[0].host, answer.exit_code) == (1, "gpu-1", 0)


def test_a_run_that_exceeds_its_time_limit_is_an_error(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(prefix / "envs/ab12/bin/python", "exec sleep 600")
    monkeypatch.setattr("provision.phases.verify.run_checks.run_limit_s", lambda *_: -29.0)
    assert "did not end within 1 s" in only(verify(LOCALHOST, prefix=str(prefix), options=CheckOptions("quick"))).reason


@pytest.mark.parametrize(
    ("level", "picked"), [("standard", None), ("full", None), ("quick", Picked(only=("kernels",)))]
)
def test_eight_cards_get_the_time_that_their_checks_may_take(level: Level, picked: Picked | None) -> None:
    """Checks may take 240 s on each of eight cards, one after the other; a limit of 300 s for all would be too short."""
    reached = "full" if picked else level
    exclusive = [
        check.deadline_s * (8 if check.each_device else 1)
        for check in all_checks()
        if check.exclusive and LEVELS.index(check.level) <= LEVELS.index(reached)
    ]
    options = CheckOptions(level, selection=picked)
    assert options.time_limit_s(8) > sum(exclusive)
    assert options.time_limit_s(8) > options.time_limit_s(1)


def test_a_burn_in_gets_its_hours_and_the_time_of_a_round() -> None:
    options = CheckOptions("burn-in", hours=3)
    assert options.time_limit_s(1) - CheckOptions("full").time_limit_s(1) == 3 * 3600
    assert CheckOptions("burn-in").time_limit_s(1) > 24 * 3600
    assert options.words("/opt/firstlight")[:5] == ["--level", "burn-in", "--json", "--hours", "3"]


def test_an_unreachable_host_is_no_answer() -> None:
    class Cut(LocalSession):
        def run(self, *_: object, **__: object) -> Completed:
            raise TransportError("the connection to gpu-1 broke")

    with pytest.raises(TransportError, match="the connection to gpu-1 broke"):
        verify(Cut("gpu-1", Connection(kind="local")), prefix="/opt/firstlight")


def test_the_table_fits_terminals(snapshot: object) -> None:
    right = {"id": "kernels.gemm", "family": "kernels", "status": "ok", "device": "cuda:0", "reason": "right"}
    wrong = {"id": "libraries.loaded", "family": "libraries", "status": "fail", "remedy": "unset LD_LIBRARY_PATH"}
    wrong |= {"reason": "loaded from outside: libnccl from [/usr/lib/libnccl.so.2]"}
    checks = [CheckRecord.model_validate({"host": "gpu-1", "seconds": 0.5, **record}) for record in (right, wrong)]
    console = Console(width=100, force_terminal=False, record=True, file=io.StringIO())
    console.print(checks_table(checks))
    assert console.export_text() == snapshot
