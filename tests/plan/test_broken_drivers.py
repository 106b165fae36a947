"""Recorded hosts with an installed driver that does not work: the plan never keeps it."""

from __future__ import annotations

from pathlib import Path

import pytest

from provision.core.models.settings import Settings
from provision.core.models.stack import Resolution
from provision.phases.plan import choose_stacks
from provision.phases.probe.assemble import parse

RECORDED = Path(__file__).resolve().parents[1] / "probe" / "recorded"


def planned(recording: str, **settings: str) -> Resolution:
    facts = parse(recording, (RECORDED / f"{recording}.txt").read_text(encoding="utf-8"))
    chosen = Settings.model_validate(settings)
    return choose_stacks({recording: facts}, {recording: chosen}, become=(recording,)).classes[0]


@pytest.mark.parametrize(
    ("recording", "message"),
    [("driver-mismatch", "reload the modules"), ("nvidia-smi-hangs", "Xid")],
)
def test_a_driver_that_does_not_answer_is_refused_with_a_hint(recording: str, message: str) -> None:
    refused = planned(recording)
    assert refused.stack is None
    assert refused.reasons[0].rule == "driver-answers"
    assert message in refused.reasons[0].text
    assert refused.nearest is not None
    assert refused.nearest.policy == {"driver": "install"}


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
    stack = planned(recording, driver=policy).stack
    assert stack is not None
    assert stack.driver is not None
    assert (stack.driver.action, stack.driver.version) == ("install", version)
