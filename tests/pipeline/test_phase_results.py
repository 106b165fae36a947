"""phases.json, which is written with every result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import MASK
from provision.core.run_folder import RunFolder
from provision.run import phase_results
from provision.run.phase_results import PhaseResultsFile


def test_phases_json_has_the_newest_result_of_each_phase_without_secrets(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, command="test")
    phases = PhaseResultsFile(run)
    steps: list[tuple[str, PhaseName, str]] = [
        ("a", "probe", "first"),
        ('b "quoted"', "probe", "HF_TOKEN=hf_abcdefghijklmnop"),
        ("a", "plan", "x"),
        ("a", "probe", "again"),
    ]
    for host, phase, text in steps:
        phases.put(PhaseResult(host=host, phase=phase, status="ok", text=text))
    kept = json.loads(run.path("phases.json").read_bytes())
    texts = {host: {phase: entry["text"] for phase, entry in by_phase.items()} for host, by_phase in kept.items()}
    assert texts == {"a": {"probe": "again", "plan": "x"}, 'b "quoted"': {"probe": f"HF_TOKEN={MASK}"}}
    PhaseResult.model_validate(kept["a"]["plan"])


def test_a_large_fleet_writes_few_times_and_is_complete_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(path: Path, text: str, *, durable: bool) -> None:
        del durable
        written.append(len(text))
        path.write_text(text)

    monkeypatch.setattr(phase_results, "write_atomically", write)
    run = RunFolder.create(tmp_path, command="test")
    phases = PhaseResultsFile(run)
    names: tuple[PhaseName, ...] = ("probe", "plan", "stage", "install", "verify", "serve")
    for phase in names:
        for number in range(500):
            phases.put(PhaseResult(host=f"gpu-{number}", phase=phase, status="ok"))
    there = sum(map(len, json.loads(run.path("phases.json").read_bytes()).values()))
    assert there >= 3000 * (1 - 1 / phase_results.NEW_SHARE)
    phases.write()
    assert {len(each) for each in json.loads(run.path("phases.json").read_bytes()).values()} == {6}
    # As a whole for each result it would be 1,500 times the file.
    assert sum(written) < 40 * run.path("phases.json").stat().st_size
    phases.write()
    assert len(written) < 350
