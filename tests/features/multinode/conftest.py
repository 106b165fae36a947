"""Fixtures of tests of the core that tests of spans use too."""

from __future__ import annotations

from tests.inventory.conftest import _own_cache, make
from tests.serve.conftest import cuda_stack

__all__ = ["_own_cache", "cuda_stack", "make"]
