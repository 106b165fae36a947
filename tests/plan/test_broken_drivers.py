"""Recorded hosts with an installed driver that does not work. Without consent they are refused: cases/hosts/driver-*.toml."""

from pathlib import Path

import pytest

from provision.phases.probe.assemble import parse
from tests.plan.planned import resolve, stack_of

RECORDED = Path(__file__).resolve().parents[1] / "probe" / "recorded"


@pytest.mark.parametrize(
    ("recording", "version"),
    [
        ("driver-mismatch", "580.178.04"),
        ("nvidia-smi-hangs", "580.178.04"),
        ("driver-broken", "580.173.02"),  # Secure Boot is on: the modules that Ubuntu signs
    ],
)
@pytest.mark.parametrize("policy", ["install", "upgrade", "580"])
def test_with_consent_the_driver_is_installed_again(recording: str, version: str, policy: str) -> None:
    facts = parse(recording, (RECORDED / f"{recording}.txt").read_text(encoding="utf-8"))
    plan = stack_of(resolve(facts, become=True, driver=policy)).driver
    assert plan is not None
    assert (plan.action, plan.version) == ("install", version)
