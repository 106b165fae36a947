"""Reading the phases of a cold start, and checking that both sides did the same work."""

from typing import Any

import pytest

from benchmarks.cold import SCRIPT, compared, hand_phases, locked, product_phases, same_work, serve_flags

STARTED = 1_700_000_000.0  # 2023-11-14T22:13:20Z
EVENTS: list[dict[str, Any]] = [
    {"at": "2023-11-14T22:13:21.000Z", "kind": "phase", "phase": "probe", "host": None, "seconds": 0.5},
    {"at": "2023-11-14T22:13:40.000Z", "kind": "phase", "phase": "stage", "host": None, "seconds": 18.0},
    {"at": "2023-11-14T22:13:40.100Z", "kind": "phase", "phase": "stage", "host": None, "seconds": 0.5},
    {"at": "2023-11-14T22:13:44.000Z", "kind": "sent", "phase": "install", "host": "host1", "seconds": 4.0},
    {"at": "2023-11-14T22:14:20.000Z", "kind": "phase", "phase": "install", "host": None, "seconds": 40.0},
    {"at": "2023-11-14T22:14:30.000Z", "kind": "phase", "phase": "verify", "host": None, "seconds": 10.0},
    {"at": "2023-11-14T22:15:00.000Z", "kind": "result", "phase": "serve", "host": "host1", "status": "ok"},
    {"at": "2023-11-14T22:15:00.100Z", "kind": "phase", "phase": "serve", "host": None, "seconds": 30.0},
]
MARKS = """@@ os_packages 100.0
Get:1 something
@@ lock 110.0
@@ environment 113.5
@@ model 140.0
@@ serve 142.0
@@ reference_done 150.0
@@ answer 170.0
@@ end 171.0
"""
UNIT = "[Service]\nExecStart=/opt/firstlight/current/bin/vllm serve /opt/firstlight/models/builtin-1 {flags}\nRestart=on-failure\n"


def test_the_product_is_timed_by_its_phases() -> None:
    phases = product_phases(EVENTS, started=STARTED, total=101.0)
    assert phases["first_correct_token"] == 100.0
    assert phases["stage"] == 18.5
    assert phases["process_start_and_end"] == pytest.approx(2.0)


def test_the_phases_by_hand_add_up_and_the_reference_is_listed_separately() -> None:
    phases = hand_phases(MARKS)
    steps = ("os_packages", "lock", "environment", "model", "serve", "answer")
    assert phases["first_correct_token"] == sum(phases[step] for step in steps) == 71.0
    assert phases["serve.reference_beside_it"] == 8.0


def test_a_script_that_ended_early_has_no_phases() -> None:
    with pytest.raises(ValueError, match="before answer"):
        hand_phases(MARKS.partition("@@ answer")[0])


def test_ratios_are_taken_pair_by_pair_with_and_without_verify() -> None:
    ours = product_phases(EVENTS, started=STARTED, total=101.0)
    theirs = hand_phases(MARKS)
    found = compared([(ours, theirs), (ours, {**theirs, "first_correct_token": 142.0}), (ours, theirs)])
    assert found["ratios"] == [round(90 / 71, 3), round(90 / 142, 3), round(90 / 71, 3)]
    assert found["ratio"] == round(90 / 71, 3)
    assert found["ratio_with_verify"] == round(100 / 71, 3)


def planned(**changes: Any) -> dict[str, Any]:
    flags = " ".join(serve_flags(SCRIPT.read_text(encoding="utf-8")))
    return {
        "firstlight_service": {"unit": UNIT.format(flags=changes.get("flags", flags))},
        "firstlight_environment": {
            "lock": "firstlight-attention==1.0.0 --hash=sha256:00\nsix==1.17.0 --hash=sha256:01\nvllm==0.32.0+cpu --hash=sha256:02\n"
        },
        "firstlight_system_packages": changes.get("packages", ["libnuma1", "g++", "python3-dev"]),
    }


def test_the_script_serves_with_flags_that_are_read_across_its_lines() -> None:
    flags = serve_flags(SCRIPT.read_text(encoding="utf-8"))
    assert flags[:2] == ["--served-model-name", "builtin-1"]
    assert flags[-1] == "--enforce-eager"


def test_equal_work_is_accepted_whatever_our_wheels_in_the_lock() -> None:
    same_work(planned(), "six==1.17.0 \\\n    --hash=sha256:01\n")


@pytest.mark.parametrize(
    ("changes", "lock", "message"),
    [
        ({"flags": "--dtype auto"}, "six==1.17.0", "the product serves with"),
        ({}, "six==1.18.0", r"other distributions: six==1\.17\.0, six==1\.18\.0"),
        ({"packages": ["libnuma1"]}, "six==1.17.0", "the product installs"),
    ],
)
def test_a_difference_between_the_two_sides_ends_the_benchmark(
    changes: dict[str, Any], lock: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        same_work(planned(**changes), lock + "\n")


def test_a_lock_is_read_with_and_without_line_breaks() -> None:
    assert locked("six==1.17.0 \\\n    --hash=sha256:01\nattrs==26.1.0 --hash=sha256:02\n") == {
        "six==1.17.0",
        "attrs==26.1.0",
    }
