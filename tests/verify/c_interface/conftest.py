"""Tests of the C interface that need torch: run by test_c_interface.py in an environment that has it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait must sleep, not spin
