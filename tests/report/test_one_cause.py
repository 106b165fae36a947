"""One root cause is shown once, in at most 15 lines with the doctor's finding first, however many checks it affects."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provision.core.models.records import CheckRecord, Finding
from provision.phases.probe.assemble import parse
from provision.phases.verify.step import worst_result
from provision.pipeline.failure_evidence import causes_of
from provision.report.run_files import read
from provision.report.summary_builder import build
from provision.report.text import render
from tests.report.sample import GPU_STACK, Folder, check, host, result
from verify.runner.execution import with_dependencies
from verify.runner.registry import all_checks

MOST = 15
CAUSES: dict[str, dict[str, Any]] = {
    "driver not loaded": {
        "id_": "devices.driver",
        "reason": "no NVIDIA kernel module is loaded",
        "remedy": "modprobe nvidia; dmesg shows why it fails",
    },
    "torch of another platform": {
        "id_": "libraries.torch_build",
        "reason": "torch is built for cpu, and the plan has cu130",
        "remedy": "reinstall the environment from its lock: ./firstlight provision",
    },
    "one of eight GPUs gone": {
        "id_": "devices.gpus",
        "reason": "7 of 8 GPUs: missing PCI 0000:dd:00.0 (run 20261119T101500Z, in which the host was last green)",
        "remedy": "dmesg and lspci say whether the GPU fell off the bus: restart the host, reseat the GPU",
    },
}


RECORDED = Path(__file__).parents[1] / "probe/recorded"
FACTS = {"driver not loaded": "driver-broken"}
"""The probe recording of such a host."""
SOURCES = {
    "driver not loaded": {
        "nvidia-smi": "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
        "Make sure that the latest NVIDIA driver is installed and running.\n"
    }
}
"""Sources of the host itself beside the check."""


def records(id_: str, **values: Any) -> list[dict[str, Any]]:
    """Return the records of a standard run in which one check fails and the others pass."""
    found = []
    for one in (one for one in all_checks() if one.level != "full"):
        rests_on = {premise.id for premise in with_dependencies([one], all_checks())}
        if one.id == id_:
            found.append(check(id_, "fail", device=None, **values))
        elif id_ in rests_on:
            found.append(check(one.id, "skip", device=None, reason=f"needs {id_}"))
        else:
            found.append(check(one.id, device="cuda:0" if one.each_device else None, reason="as it should be"))
    return found


def failed(text: str) -> list[str]:
    """Return the lines of `What failed`."""
    lines = text.partition("What failed\n")[2].partition("\n\n")[0].splitlines()
    assert lines
    return lines


@pytest.mark.parametrize("name", CAUSES)
def test_a_cause_is_shown_once_with_the_checks_that_it_affects(tmp_path: Path, snapshot: object, name: str) -> None:
    folder = Folder(tmp_path / "20261120T101500Z", [host("gpu-1")])
    found = records(**CAUSES[name])
    folder.green("gpu-1", gpus=8, records=found)
    folder.planned(["gpu-1"], GPU_STACK)
    verified = worst_result("gpu-1", [CheckRecord.model_validate({**one, "host": "gpu-1"}) for one in found], 9.0)
    folder.results(verified)
    folder.run.path("serve/gpu-1.json").unlink()
    seen = parse("gpu-1", (RECORDED / f"{FACTS[name]}.txt").read_text()) if name in FACTS else None
    findings = causes_of({"verify": verified.text or "", **SOURCES.get(name, {})}, seen)
    folder.run.write("findings/gpu-1.json", [one.model_dump() for one in findings])
    text = folder.text()
    lines = failed(text)
    assert len(lines) <= MOST
    assert sum(CAUSES[name]["reason"][:30] in line for line in lines) == 1
    taken_along = [one for one in found if one["reason"].startswith("needs ")]
    needing = [line for line in text.splitlines() if "needs " in line]
    assert [line.split() for line in needing] == (
        [["skip", str(len(taken_along)), "checks", "needs", CAUSES[name]["id_"]]] if taken_along else []
    )
    assert "\n".join(lines) == snapshot


@settings(deadline=None)
@given(
    problem=st.text(st.characters(codec="utf-8"), max_size=3000),
    hint=st.text(st.characters(codec="utf-8"), max_size=900),
    evidence=st.lists(st.text(st.characters(codec="utf-8"), max_size=400), max_size=60),
    phase=st.sampled_from(["plan", "stage", "install"]),
)
def test_any_failure_of_a_phase_takes_at_most_15_lines(
    tmp_path_factory: pytest.TempPathFactory, problem: str, hint: str, evidence: list[str], phase: Any
) -> None:
    folder = Folder(tmp_path_factory.mktemp("run") / "20261120T101500Z", [host("gpu-1")])
    folder.results(result("gpu-1", phase, "failed", text=problem, hint=hint, evidence=tuple(evidence)))
    finding = Finding(cause="index-unreachable", confidence=0.97, evidence=(), fix=("fetch it by hand " * 40,))
    folder.run.write("findings/gpu-1.json", [finding.model_dump()])
    lines = failed(render(build(read(folder.run))))
    assert len(lines) <= MOST
    assert max(map(len, lines)) <= 100
    assert "cause: index-unreachable" in lines[1]
