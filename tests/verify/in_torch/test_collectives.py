"""Processes that exchange numbers: exact, or told what refuses."""

from __future__ import annotations

from typing import Any

import pytest

from verify.checks.collectives import gloo
from verify.exchange import judge
from verify.records import Context


def test_one_wrong_number_is_a_failure_that_names_the_collective() -> None:
    answers: dict[int, dict[str, Any]] = {rank: {"wrong": {"all-reduce": 0, "all-gather": rank}} for rank in range(2)}
    outcome = judge(answers, {}, "")
    assert (outcome.status, outcome.reason) == ("fail", "all-gather gave 1 wrong numbers")


def test_an_interface_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "INTERFACE", "nowhere0")
    outcome = gloo.CHECK.run(Context())
    assert outcome.status == "fail"
    assert "they could not exchange: process 0: " in outcome.reason
    assert "nowhere0" in str(outcome.evidence)
    assert "ip address show nowhere0" in (outcome.remedy or "")
