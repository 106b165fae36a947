"""Fixtures of the tests of `verify`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.required import do_without
from tests.verify.torch_environment import IN_TORCH, TorchMissingError
from tests.verify.torch_environment import torch_python as make_torch_python
from tests.verify.torch_environment import vllm_python as make_vllm_python

# Run by test_in_torch.py and test_c_interface.py in an environment that has torch; this one has none.
collect_ignore = [] if importlib.util.find_spec("torch") else ["in_torch", "in_vllm", "c_interface"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many tests the one test of test_in_torch.py ran."""
    for report in terminalreporter.getreports("passed"):
        if counts := dict(report.user_properties).get(IN_TORCH):
            terminalreporter.write_line(f"{IN_TORCH}: {counts}")


@pytest.fixture(scope="session")
def torch_python() -> Path:
    """The Python of an environment with torch; without it the test fails in CI and skips elsewhere, with uv's words."""
    return _made(make_torch_python)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The same for an environment with vLLM for CPUs."""
    return _made(make_vllm_python)


def _made(make: Callable[[], Path]) -> Path:
    try:
        return make()
    except TorchMissingError as error:
        do_without(f"torch could not be installed, so the checks themselves are NOT TESTED: {error}")
