"""The table of where the suite's time goes."""

from pathlib import Path

from tests.times import Recorder, disk, read, tables

FAULTS, PLAN = "tests/fleet/test_faults.py::test_a", "tests/plan/test_explain.py::test_b"


def event(kind: str, seconds: float, test: str = FAULTS, what: str = "") -> dict[str, object]:
    return {"kind": kind, "seconds": seconds, "test": test, "what": what}


def test_seconds_are_summed_by_kind_place_test_and_fixture() -> None:
    text = tables(
        [
            event("setup", 20),
            event("call", 30),
            event("call", 12, PLAN),
            event("fixture", 15, what="host"),
            event("fixture", 5, what="host"),
            event("host boot", 4),
            event("phase serve", 25),
            event("wait", 3),
        ]
    )
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line}
    assert {
        ("all tests", "62", "2"),
        ("of that, setup", "20", "1"),
        ("hosts: boot", "4", "1"),
        ("starts of engines", "25", "1"),
        ("waits in tests", "3", "1"),
        ("tests/fleet/test_faults.py", "50"),
        ("tests/plan", "12"),
        (FAULTS, "50"),
        ("host", "20"),
    } <= rows


def test_the_tests_at_the_peak_of_the_disk_are_named() -> None:
    def at(seconds: float, process: str, test: str, used: float) -> dict[str, object]:
        return {**event("call", 1, test), "at": seconds, "process": process, "disk_gib": used}

    said = disk(
        [
            at(1, "gw0", "a", 40),
            at(2, "gw1", "b", 41),
            at(3, "gw0", "c", 52.5),
            at(4, "gw1", "d", 44),
            at(5, "gw1", "e", 43),
        ]
    )
    assert said == "The disk held at most 12.5 GiB more than at the start, while these ran: c, d."


def test_events_of_all_processes_are_read_and_short_ones_are_not_kept(tmp_path: Path) -> None:
    for name in ("gw0", "gw1"):
        recorder = Recorder(tmp_path / f"{name}.jsonl")
        recorder.write("wait", 0.001)
        recorder.write("wait", 0.5)
    found = read(tmp_path)
    assert [event["seconds"] for event in found] == [0.5, 0.5]
    assert {event["process"] for event in found} == {"gw0", "gw1"}
