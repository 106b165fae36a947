"""Times and memory of attention as this machine's CPU has them: what is measured, not how much it is."""

from __future__ import annotations

import pytest

from verify.attention import speed as attention_speed
from verify.attention.gain import measure_gain
from verify.attention.speed import measure, reference_blocks, sweep
from verify.checks.memory import attention as memory
from verify.host import devices
from verify.records import CheckContext
from verify.tables import table


def test_both_paths_are_timed_causal_and_not_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table("speed")["sweep"], "lengths", [128])
    rows = list(sweep("cpu", "standard"))
    assert {(row.causal, row.backward) for row in rows} == {(False, False), (False, True), (True, False), (True, True)}
    assert all(row.flash > 0 and row.standard and row.standard > 0 for row in rows)


def test_scores_that_would_not_fit_into_the_hosts_memory_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = 3 * 4 * 2 * 64**2
    monkeypatch.setattr(attention_speed, "free_bytes", lambda _: 4 * scores)
    assert set(measure((1, 64, 2, 64), "cpu", budget_s=0.001)) == {"flash", "standard"}
    assert set(measure((1, 64, 2, 64), "cpu", backward=True, budget_s=0.001)) == {"flash"}


def test_every_block_size_of_the_reference_gives_the_same_result() -> None:
    seconds, difference = reference_blocks()
    assert list(seconds) == [16, 32, 64, 128, 256]
    assert all(value > 0 for value in seconds.values())
    assert difference <= 1e-10


def test_memory_is_measured_to_8192_at_standard() -> None:
    outcome = memory.CHECK.run(CheckContext(level="standard", device="cpu", devices=("cpu",)))
    assert outcome.status == "ok", outcome.reason
    peaks = outcome.evidence["peak bytes by length"]
    assert list(peaks["flash"]) == [128, 256, 512, 1024, 2048, 4096, 8192]
    reached = [
        length for length in peaks["flash"] if 3 * 4 * length**2 < attention_speed.SHARE * devices.free_bytes("cpu") / 4
    ]
    assert set(reached) <= set(peaks["standard"])
    assert peaks["standard"][1024] > peaks["flash"][1024]


def test_what_flash_attention_gains_is_measured_at_the_fixed_point() -> None:
    found = measure_gain(
        CheckContext(expect={"stack": {"torch": {"version": "2.13.0", "variant": "cpu"}, "vllm": None}})
    )
    assert (found["device"], found["dtype"], found["point"]) == ("cpu", "float32", [2, 512, 12, 64])
    before, after = found["before"], found["after"]
    assert before.keys() == after.keys() == {"attention_time", "attention_memory"}
    assert before["attention_memory"] > after["attention_memory"] > 0
    assert after["attention_time"] > 0
