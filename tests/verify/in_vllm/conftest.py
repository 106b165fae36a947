"""Tests that need vLLM: run by test_in_torch.py in an environment that has it."""

from __future__ import annotations

import gc
import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a run: threads that wait must sleep, not spin


@pytest.fixture(scope="module", autouse=True)
def frozen_modules() -> None:
    """Keep what is loaded out of collections of garbage: `verify upgrade` collects before it measures memory, a second each time with vLLM."""
    gc.collect()
    gc.freeze()
