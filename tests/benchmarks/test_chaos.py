"""The chaos benchmark without hosts: what a seed draws, when a moment has come, which rows are kept, how states are compared."""

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.chaos_cases import moments
from benchmarks.chaos_cases.changes import CHANGES
from benchmarks.chaos_cases.draw import draw, to_do
from benchmarks.chaos_cases.faults import FAULTS
from benchmarks.chaos_cases.on_controller import flip
from benchmarks.chaos_cases.state import State, compare, left_in, shortened
from benchmarks.chaos_cases.table import keep, kept, made, restore, totals

KEY = "etc/service.env"


def row(number: int, result: str = "as undisturbed", **values: Any) -> dict[str, Any]:
    return {"run": number, "seed": 1, "fault": "disk full", "commit": "a", "result": result, "left": [], **values}


def test_a_seed_draws_the_same_runs_again_and_another_one_others() -> None:
    first = to_do(1, 60, set(), None)
    assert first == [draw(1, number) for number in range(60)]
    assert first != to_do(2, 60, set(), None)
    assert [trial.random().random() for trial in first] == [trial.random().random() for trial in first]


def test_each_fault_comes_once_before_one_comes_again() -> None:
    count = len(FAULTS)
    names = [trial.fault for trial in to_do(7, 3 * count, set(), None)]
    assert all(set(names[place : place + count]) == set(FAULTS) for place in (0, count, 2 * count))


def test_a_fault_is_made_only_where_it_has_an_effect() -> None:
    for trial in to_do(3, 400, set(), None):
        fault, change, moment = FAULTS[trial.fault], CHANGES[trial.change], moments.MOMENTS[trial.moment]
        assert trial.moment in change.moments
        assert not fault.moments or trial.moment in fault.moments
        assert not fault.changes or trial.change in fault.changes
        assert 0 <= trial.delay_s <= moment.longest_s
        assert fault.seconds[0] <= trial.lasts_s <= fault.seconds[1]


def test_every_moment_and_change_is_drawn_and_most_runs_begin_at_an_installed_host() -> None:
    trials = to_do(1, 400, set(), None)
    assert {trial.change for trial in trials} == set(CHANGES)
    assert {trial.moment for trial in trials} == set(moments.MOMENTS)
    assert sum(CHANGES[trial.change].bare for trial in trials) < 100


def test_what_has_a_row_is_not_done_again_and_one_fault_can_be_asked_for() -> None:
    assert [trial.number for trial in to_do(1, 6, {0, 2, 5}, None)] == [1, 3, 4]
    only = to_do(1, 3, set(), "power loss")
    assert [trial.fault for trial in only] == ["power loss"] * 3
    assert to_do(1, 3, {only[0].number}, "power loss") == only[1:]


def test_rows_outlive_the_process_and_a_half_written_one_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert kept(path, 1) == []
    keep(path, row(0))
    keep(path, row(0, seed=2))
    with path.open("a") as file:
        file.write('{"run": 1, "se')
    assert kept(path, 1) == [row(0)]
    keep(path, row(1))
    assert kept(path, 1) == [row(0), row(1)]


def test_a_run_whose_fault_was_not_made_is_done_again_and_its_newest_row_counts(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    keep(path, row(0, "not made"))
    keep(path, row(1))
    assert made(kept(path, 1)) == {1}
    keep(path, row(0, "differs"))
    assert kept(path, 1) == [row(0, "differs"), row(1)]


def test_a_run_that_failed_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    keep(path, row(0, "differs"))
    assert made(kept(path, 1)) == set()
    keep(path, row(0, commit="b"))
    assert (made(kept(path, 1)), kept(path, 1)) == ({0}, [row(0, commit="b")])


def test_a_machine_without_rows_goes_on_from_the_published_table(tmp_path: Path) -> None:
    path, published = tmp_path / "rows.jsonl", tmp_path / "chaos.json"
    restore(path, published)
    assert kept(path, 1) == []
    published.write_text(json.dumps({"seed": 1, "rows": [row(0), row(1, "not made")]}))
    restore(path, published)
    assert kept(path, 1) == [row(0), row(1, "not made")]


def test_runs_that_ended_before_their_fault_are_not_counted() -> None:
    rows = [row(0), row(1, "differs", left=["keys: x"]), row(2, "not made"), row(3, fault="power loss")]
    assert totals(rows) == {
        "runs": 3,
        "as_undisturbed": 2,
        "not_made": 1,
        "left_behind": 1,
        "by_fault": {"disk full": {"runs": 2, "as_undisturbed": 1}, "power loss": {"runs": 1, "as_undisturbed": 1}},
    }


@pytest.mark.parametrize(
    ("moment", "without", "then"),
    [
        (
            "install",
            [("enter", "install"), ("phase", "install"), ("enter", "stage")],
            [("phase", "stage"), ("enter", "install")],
        ),
        ("verify", [("enter", "verify")], [("phase", "stage"), ("enter", "verify")]),
        ("switch", [("phase", "stage")], [("enter", "serve")]),
        ("end", [("enter", "serve")], [("result", "serve")]),
    ],
)
def test_a_moment_begins_with_its_events_alone(
    moment: str, without: list[tuple[str, str]], then: list[tuple[str, str]]
) -> None:
    before = [{"kind": kind, "phase": phase} for kind, phase in without]
    after = [{"kind": kind, "phase": phase} for kind, phase in then]
    assert not moments.MOMENTS[moment].begins(before)
    assert moments.MOMENTS[moment].begins(before + after)


def test_events_and_tasks_are_read_in_their_order_without_a_half_written_line(tmp_path: Path) -> None:
    (tmp_path / "install").mkdir()
    (tmp_path / "events.jsonl").write_text(
        '{"at": "1", "kind": "enter", "phase": "serve"}\n{"at": "3", "kind": "phase", "phase": "serve"}\n{"at": "4", "ki'
    )
    (tmp_path / "install" / "tasks.jsonl").write_text(json.dumps({"at": "2", "task": moments.SWITCHED[0]}) + "\n")
    lines = moments.read(tmp_path)
    assert [line["kind"] for line in lines] == ["enter", "task", "phase"]
    assert moments.phase_of(lines[:2]) == "serve"
    assert moments.phase_of(lines) == "after serve"
    assert moments.MOMENTS["start"].begins(lines[:2])
    assert not moments.MOMENTS["start"].begins(lines[:1])


def test_states_differ_by_what_came_and_went_and_what_may_differ_is_left_out() -> None:
    reference: State = {
        "files": {"current": "lrwxrwxrwx root envs/a", KEY: "-rw------- root 40 bytes aa", "logs/summary.txt": "x"},
        "keys": {"/root/.ssh/authorized_keys": "aa"},
        "processes": {"0 sshd": "1", "0 sleep N": "1"},
    }
    same: State = reference | {
        "files": reference["files"] | {KEY: "-rw------- root 44 bytes bb", "logs/summary.txt": "y"}
    }
    assert compare(reference, same) == []
    other: State = {
        "files": {KEY: "-rw-r--r-- root 40 bytes aa", "lock": "-rw-r--r-- root"},
        "keys": {"/root/.ssh/authorized_keys": "bb"},
        "processes": {"0 sshd": "1", "0 sh": "1"},
    }
    found = compare(reference, other)
    assert found == [
        "files: current: lrwxrwxrwx root envs/a -> absent",
        "files: etc/service.env: -rw------- root -> -rw-r--r-- root",
        "files: lock: absent -> -rw-r--r-- root",
        "keys: /root/.ssh/authorized_keys: aa -> bb",
        "processes: 0 sh: absent -> 1",
    ]
    assert left_in(found) == found[3:]
    assert shortened(found, 2) == [*found[:2], "and 3 more"]


@pytest.mark.parametrize("keeps_time", [False, True])
def test_a_damaged_file_has_one_other_bit(tmp_path: Path, keeps_time: bool) -> None:
    path = tmp_path / "wheel"
    path.write_bytes(bytes(100))
    before = path.stat().st_mtime_ns
    flip(path, Random(1), keeps_time=keeps_time)
    assert sorted(path.read_bytes()) == [0] * 99 + [1]
    assert not keeps_time or path.stat().st_mtime_ns == before
