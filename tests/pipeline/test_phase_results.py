"""phases.json, which has how each phase ended for each host."""

import json
from pathlib import Path
from typing import Any

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import MASK
from provision.run.context import RunContext
from tests.pipeline.local_context import local_context


def results(context: RunContext) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(context.run.path("phases.json").read_bytes())
    return found


def test_phases_json_has_the_newest_result_of_each_phase_without_secrets(tmp_path: Path) -> None:
    context = local_context(tmp_path, "a")
    steps: list[tuple[str, PhaseName, str]] = [
        ("a", "probe", "first"),
        ('b "quoted"', "probe", "HF_TOKEN=hf_abcdefghijklmnop"),
        ("token", "plan", "y"),
        ("a", "plan", "x"),
        ("a", "probe", "again"),
    ]
    for host, phase, text in steps:
        context.record(PhaseResult(host=host, phase=phase, status="ok", text=text))
    context.write_results()
    kept = results(context)
    texts = {host: {phase: entry["text"] for phase, entry in by_phase.items()} for host, by_phase in kept.items()}
    assert texts == {
        "a": {"probe": "again", "plan": "x"},
        'b "quoted"': {"probe": f"HF_TOKEN={MASK}"},
        "token": {"plan": "y"},
    }
    PhaseResult.model_validate(kept["a"]["plan"])
