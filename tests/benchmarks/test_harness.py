"""What benchmarks share: the machine in a result, its storage, the timing of whole processes."""

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import harness
from benchmarks.harness import figures, timed


def result(load: float, cores: int) -> dict[str, object]:
    return {"load_at_start": [load, 9.0, 9.0], "machine": {"cores": cores}}


def test_the_processor_is_named_as_the_kernel_names_it() -> None:
    text = "processor\t: 0\nmodel name\t: Example CPU 9000 @ 3.0GHz: boxed\nprocessor\t: 1\nmodel name\t: Other\n"
    assert harness.cpu_model(text) == "Example CPU 9000 @ 3.0GHz: boxed"
    assert harness.cpu_model("processor\t: 0\nCPU implementer\t: 0x41\n") == "unknown"


@pytest.mark.parametrize(("load", "cores", "quiet"), [(0.4, 2, True), (0.6, 2, False), (3.9, 16, True)])
def test_quiet_means_little_load_for_each_core(load: float, cores: int, quiet: bool) -> None:
    assert harness.is_quiet(result(load, cores)) is quiet


def test_a_result_of_a_busy_machine_is_printed_but_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path / "results")
    harness.publish(result(5.0, 2), "any")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == result(5.0, 2)
    assert "the load was 5.0 on 2 cores" in shown.err
    assert not (tmp_path / "results").exists()
    harness.publish(result(0.1, 2), "any")
    assert json.loads((tmp_path / "results" / "any.json").read_text()) == result(0.1, 2)


def test_a_header_names_machine_versions_and_load() -> None:
    header = harness.header("any", ("pydantic",))
    assert {"cpu", "cores", "memory_gib", "kernel"} <= header["machine"].keys()
    assert header["versions"]["pydantic"]
    assert len(header["load_at_start"]) == 3


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
