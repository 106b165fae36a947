"""Fixtures of tests of the core that tests of spans use too, and the program that starts a host's server with the others."""

from pathlib import Path

import pytest

from provision.features.multinode.hooks import host_programs
from tests.inventory.conftest import _own_cache, make
from tests.serve.conftest import cuda_stack

__all__ = ["_own_cache", "cuda_stack", "make"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return host_programs(tmp_path_factory.mktemp("tools"))["span.pyz"]
