"""Tests that need vLLM: run by test_in_torch.py in an environment that has it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a run: threads that wait must sleep, not spin
