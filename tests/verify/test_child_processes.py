"""A call in a process of its own: however it ends, the caller gets a result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from verify.runner import child_processes
from verify.runner.child_processes import Task, run_all, run_one
from verify.serving.service import stat_fields


def test_a_call_returns_its_value_and_its_output() -> None:
    def call() -> dict[str, Any]:
        os.write(1, b"to stdout\n")
        os.write(2, b"to stderr\n")
        return {"pid": os.getpid()}

    ending = run_one(call, deadline_s=30)
    assert ending.problem is None
    assert ending.value["pid"] != os.getpid()
    assert ending.output == "to stdout\nto stderr\n"


def test_a_nested_call_keeps_its_output() -> None:
    def inner() -> None:
        sys.stdout.write("printed by the inner call\n")
        sys.stderr.write("warned below\n")

    def outer() -> list[str | None]:
        sys.stdout.write("printed by the outer call\n")
        ending = run_one(inner, deadline_s=30)
        return [ending.problem, ending.output]

    ending = run_one(outer, deadline_s=30)
    assert ending.value == [None, "printed by the inner call\nwarned below\n"]
    assert ending.output == "printed by the outer call\n"


def test_an_answer_larger_than_a_pipe_arrives_completely() -> None:
    text = "x" * 3_000_000
    assert run_one(lambda: text, deadline_s=30).value == text


def divide_by_zero() -> float:
    return 1 / 0


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (divide_by_zero, "ZeroDivisionError: division by zero"),
        (lambda: sys.exit("left early"), "SystemExit: left early"),
        (lambda: os._exit(7), "its process ended with exit code 7 and without a result"),
        (os.abort, "its process was ended by SIGABRT"),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "its process was ended by SIGSEGV"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "its process was ended by SIGKILL"),
    ],
)
def test_every_other_end_is_a_described_problem(call: Callable[[], Any], problem: str) -> None:
    assert run_one(call, deadline_s=30).problem == problem


def test_a_traceback_is_kept_as_output() -> None:
    assert "in divide_by_zero" in run_one(divide_by_zero, deadline_s=30).output


def test_a_call_that_never_ends_is_stopped_with_all_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def call() -> None:
        child = subprocess.Popen(["sleep", "600"])
        pid_file.write_text(str(child.pid))
        child.wait()

    ending = run_one(call, deadline_s=1)
    assert ending.problem == "did not finish within 1 s and was stopped"
    assert gone(int(pid_file.read_text()))


def test_processes_left_by_a_call_end_with_it_and_delay_nothing() -> None:
    def call() -> int:
        child = os.fork()
        if child == 0:
            time.sleep(600)
        return child

    ending = run_one(call, deadline_s=30)
    assert gone(ending.value)


def test_calls_run_in_parallel_up_to_the_limit() -> None:
    """Two calls that wait for each other end only if both run at the same time."""
    read_end, write_end = os.pipe()
    tasks = [
        Task("reader", lambda: os.read(read_end, 1).decode(), 30),
        Task("writer", lambda: os.write(write_end, b"x"), 30),
    ]
    endings = dict(run_all(tasks, limit=2))
    assert {key: ending.value for key, ending in endings.items()} == {"reader": "x", "writer": 1}
    exclusive = dict(run_all([Task("reader", lambda: os.read(read_end, 1), 1), tasks[1]], limit=1))
    assert exclusive["reader"].problem == "did not finish within 1 s and was stopped"


def test_a_call_waits_until_it_fits_beside_those_that_run(tmp_path: Path) -> None:
    def marked(name: str) -> int:
        (tmp_path / name).touch()
        time.sleep(0.05)
        beside = len([*tmp_path.glob(f"{name[0]}*")])
        (tmp_path / name).unlink()
        return beside

    tasks = [Task(f"{device}{turn}", partial(marked, f"{device}{turn}"), 30) for device in "ab" for turn in range(6)]

    def fits(key: str, running: Sequence[str]) -> bool:
        return sum(one[0] == key[0] for one in running) < 2

    endings = dict(run_all(tasks, limit=12, fits=fits))
    assert endings.keys() == {task.key for task in tasks}
    assert max(ending.value for ending in endings.values()) <= 2


def test_an_abandoned_run_leaves_no_process(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    def slow() -> None:
        pid_file.write_text(str(os.getpid()))
        time.sleep(600)

    endings = run_all([Task("slow", slow, 600), Task("fast", lambda: wait_for(pid_file), 600)], limit=2)
    key, _ = next(endings)
    assert key == "fast"
    endings.close()  # type: ignore[attr-defined]
    assert gone(int(pid_file.read_text()))


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """A parent that was killed cannot stop its children: the kernel does."""
    pid_file = tmp_path / "pid"
    program = (
        "import os, pathlib, sys, time\n"
        "from verify.runner.child_processes import run_one\n"
        "def call():\n"
        "    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "run_one(call, deadline_s=600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, pid_file], cwd=Path(__file__).parents[2])
    wait_for(pid_file)
    parent.kill()
    parent.wait()
    assert gone(int(pid_file.read_text()))


def wait_for(path: Path) -> str:
    """Wait until a file has content."""
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    return path.read_text()


def gone(pid: int) -> bool:
    """Return whether a process ended or ends soon; it is a zombie if no parent waited for it."""
    for _ in range(500):
        fields = stat_fields(pid)
        if not fields or fields[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def test_the_run_does_not_wait_for_a_process_stuck_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_processes, "KILLED_S", 0.05)
    waitpid, held = os.waitpid, []

    def hold(pid: int, options: int) -> tuple[int, int]:
        held.append(pid)
        return 0, 0

    monkeypatch.setattr("os.waitpid", hold)
    ending = run_one(lambda: time.sleep(60), deadline_s=0.1)
    assert ending.problem == "did not finish within 0.1 s and cannot be killed: the kernel or a driver holds it"
    waitpid(held[0], 0)
