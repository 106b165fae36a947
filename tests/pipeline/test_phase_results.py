"""phases.json, which is written with every result."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import MASK
from provision.core.run_folder import RunFolder
from provision.pipeline.phase_results import PhaseResultsFile


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
