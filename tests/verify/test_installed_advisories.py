"""installed.advisories: what is installed against the advisories that apply to a host, in the request and in the result."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from provision.phases.verify.expected_gpus import expected_advisories
from verify.checks.installed import files
from verify.checks.installed.files import CRITICAL, ID, OTHER, affects
from verify.checks.installed.files import advisories as run
from verify.checks.installed.files import evaluate_advisories as evaluate
from verify.files import write_atomically
from verify.host import metrics
from verify.records import CheckContext

HOLE: dict[str, Any] = {
    "id": "CVE-1",
    "product": "vllm",
    "severity": 9.8,
    "critical": True,
    "since": "0.8.3",
    "fixed": "0.14.1",
    "allows": "A client runs code.",
    "accepted": False,
}
LESSER = HOLE | {"id": "CVE-2", "severity": None, "critical": False, "fixed": "0.30.0"}
DRIVER = HOLE | {
    "id": "NVIDIA-1",
    "product": "nvidia-driver",
    "severity": 8.8,
    "critical": False,
    "since": "580",
    "fixed": "580.178.04",
}


def counted(result: Any) -> dict[str, float | None]:
    return {figure.name: figure.value for figure in result.figures}


def test_a_critical_hole_is_a_warning_with_the_version_that_ends_it() -> None:
    result = evaluate([HOLE, LESSER, DRIVER], {"vllm": "0.13.0+cu129", "nvidia-driver": "580.65.06"})
    assert result.status == "warn"
    assert result.reason == "vllm 0.13.0+cu129 has CVE-1 (CVSS 9.8), fixed in 0.14.1: a client runs code; 2 more apply"
    assert result.remedy
    assert result.remedy.startswith("upgrade vllm to 0.14.1 or newer")
    assert counted(result) == {CRITICAL: 1, OTHER: 2}


def test_lesser_holes_are_named_and_no_warning() -> None:
    result = evaluate([HOLE, LESSER, DRIVER], {"vllm": "0.14.1", "nvidia-driver": "580.65.06"})
    assert result.status == "ok"
    assert result.reason == (
        "no open advisory of CVSS 9 or more in nvidia-driver, vllm; below that: CVE-2 of vllm, NVIDIA-1 of nvidia-driver"
    )


def test_an_accepted_hole_is_no_warning_and_stays_in_the_evidence() -> None:
    result = evaluate([HOLE | {"accepted": True}], {"vllm": "0.13.0"})
    assert result.status == "ok"
    assert result.evidence["accepted"] == ["CVE-1"]
    assert counted(result) == {CRITICAL: 0, OTHER: 0}


def test_what_is_not_installed_has_no_hole() -> None:
    assert evaluate([HOLE], {"torch": "2.9.0"}).reason == "no open advisory of CVSS 9 or more in what is installed"


@pytest.mark.parametrize(
    ("hole", "version", "expected"),
    [
        (HOLE, "0.8.2", False),
        (HOLE, "0.8.3", True),
        (HOLE, "0.8.3rc1", False),
        (HOLE, "0.8.5.post1", True),
        (HOLE, "0.14.1rc2", True),
        (HOLE, "0.14.1", False),
        (HOLE, "0.14.1+cu129", False),
        (HOLE, "0.14.1.post1", False),
        (HOLE, "1.0", False),
        (DRIVER, "580.65.06", True),
        (DRIVER, "580.178.04", False),
        (DRIVER, "575.51.02", False),
    ],
)
def test_a_range_is_compared_as_packages_are_and_a_driver_within_its_branch(
    hole: dict[str, Any], version: str, expected: bool
) -> None:
    assert affects(hole, version) is expected


def test_without_advisories_the_check_is_skipped() -> None:
    assert run(CheckContext()).status == "skip"
    assert run(CheckContext(expect={"advisories": []})).status == "ok"


def test_the_request_has_what_applies_to_the_host() -> None:
    host = "gpu=H100x1 driver=580.65.06 os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=256 disk=900"
    settings = Settings(vllm="==0.13.0", accept_advisories=("NVIDIA-5861",))
    stack = choose_stacks({"h": parse_what_if(host)}, {"h": settings}).classes[0].stack
    assert stack
    rows = {row["id"]: row for row in expected_advisories(settings, stack.model_dump(mode="json"))}
    assert "CVE-2026-22778" not in rows  # the built-in model takes text alone
    assert rows["NVIDIA-5861"]["accepted"]
    assert not rows["CVE-2026-24260"]["accepted"]
    assert "CVE-2026-22778" in {row["id"] for row in expected_advisories(Settings(model="org/model"), None)}


def test_the_toolkit_of_a_host_without_one_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TOOLKIT_VERSION", ("no-such-program", "--version"))
    assert files._toolkit() is None
    monkeypatch.setattr(files, "TOOLKIT_VERSION", ("echo", "NVIDIA Container Toolkit CLI version 1.18.0\ncommit: 1"))
    assert files._toolkit() == "1.18.0"


def test_the_exporter_counts_what_the_last_verification_found(tmp_path: Path) -> None:
    result = evaluate([HOLE, LESSER], {"vllm": "0.13.0"})
    last = tmp_path / "verify" / "last.json"
    write_atomically(last, json.dumps({"status": "warn", "checks": [{"id": ID, **result.as_json()}]}))
    assert metrics.render(metrics._read_verification(tmp_path)).splitlines()[-2:] == [
        'firstlight_advisories_open{severity="critical"} 1',
        'firstlight_advisories_open{severity="other"} 1',
    ]
    write_atomically(last, json.dumps({"status": "ok", "checks": []}))
    assert "advisories" not in metrics.render(metrics._read_verification(tmp_path))
