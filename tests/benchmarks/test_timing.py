"""Timing of whole processes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.timing import figures, timed


@given(st.lists(st.floats(0.001, 1000), min_size=1))
def test_the_median_is_between_the_extremes_and_every_sample_is_stored(samples: list[float]) -> None:
    found = figures(samples)
    assert found["min_s"] <= found["median_s"] <= found["max_s"]
    assert len(found["samples_s"]) == len(samples)


def test_a_program_gets_its_variables_and_input(tmp_path: Path) -> None:
    done = timed(
        ["sh", "-c", 'cat; echo "$WORD"; echo wrong >&2; exit 3'],
        cwd=tmp_path,
        environment={"WORD": "second"},
        stdin="first\n",
    )
    assert (done.code, done.out, done.err) == (3, "first\nsecond\n", "wrong\n")
    assert "wrong" in done.tail()


def test_a_program_that_takes_too_long_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        timed(["sh", "-c", "echo $$ > pid; sleep 60; :"], cwd=tmp_path, limit_s=1)
    group = (tmp_path / "pid").read_text().strip()
    left = subprocess.run(["ps", "-o", "pid=", "--pgroup", group], capture_output=True, text=True, check=False)
    assert left.stdout.strip() == ""
