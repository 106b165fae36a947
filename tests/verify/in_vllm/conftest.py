"""Fixtures of the tests that need vLLM: run by test_in_torch.py in an environment that has it."""

from __future__ import annotations

import pytest


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number type of the servers, whose processes leave no notes here."""
    monkeypatch.setattr("verify.serving.answers.dtype_of", lambda _: "bfloat16")
