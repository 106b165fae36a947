"""The description of the machine in a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import machine


def result(load: float, cores: int) -> dict[str, object]:
    return {"load_at_start": [load, 9.0, 9.0], "machine": {"cores": cores}}


def test_the_processor_is_named_as_the_kernel_names_it() -> None:
    text = "processor\t: 0\nmodel name\t: Example CPU 9000 @ 3.0GHz: boxed\nprocessor\t: 1\nmodel name\t: Other\n"
    assert machine.cpu_model(text) == "Example CPU 9000 @ 3.0GHz: boxed"
    assert machine.cpu_model("processor\t: 0\nCPU implementer\t: 0x41\n") == "unknown"


@pytest.mark.parametrize(("load", "cores", "quiet"), [(0.4, 2, True), (0.6, 2, False), (3.9, 16, True)])
def test_quiet_means_little_load_for_each_core(load: float, cores: int, quiet: bool) -> None:
    assert machine.is_quiet(result(load, cores)) is quiet


def test_a_result_of_a_busy_machine_is_printed_but_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    machine.publish(result(5.0, 2), "any")
    shown = capsys.readouterr()
    assert json.loads(shown.out) == result(5.0, 2)
    assert "the load was 5.0 on 2 cores" in shown.err
    assert not (tmp_path / "results").exists()
    machine.publish(result(0.1, 2), "any")
    assert json.loads((tmp_path / "results" / "any.json").read_text()) == result(0.1, 2)


def test_a_header_names_machine_versions_and_load() -> None:
    header = machine.header("any", ("pydantic",))
    assert {"cpu", "cores", "memory_gib", "kernel"} <= header["machine"].keys()
    assert header["versions"]["pydantic"]
    assert len(header["load_at_start"]) == 3
