"""The permission for AMX's registers that the plugin asks for, in processes with the real torch."""

import subprocess
from pathlib import Path

import pytest

from tests.serve.test_plugin import PLUGIN, REGISTER
from tests.verify.conftest import torch_python

__all__ = ["torch_python"]

PERMITTED = """
import ctypes, platform
def permitted():
    if platform.machine() != "x86_64":
        return False
    arch_prctl, get_permitted, features = 158, 0x1022, ctypes.c_uint64()
    assert ctypes.CDLL(None).syscall(arch_prctl, get_permitted, ctypes.byref(features)) in (0, -1)
    return bool(features.value >> 18 & 1)
"""
"""Whether the process may use the registers: feature 18 of XSAVE (arch/x86/include/asm/fpu/types.h of Linux)."""


def answers(python: Path, code: str) -> list[str]:
    """Return what a new process prints."""
    environment = {"PYTHONPATH": str(PLUGIN)}
    return subprocess.run(
        [python, "-c", PERMITTED + code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()


VLLM = """
import sys, types
def vllm(*, is_cpu):
    platform = types.SimpleNamespace(is_cpu=lambda: is_cpu)
    sys.modules["vllm.platforms"] = types.SimpleNamespace(current_platform=platform)
"""
"""What vLLM tells of the devices that it computes on."""


@pytest.mark.parametrize("cuda", [None, "13.0"], ids=["build-for-CPUs", "build-for-CUDA"])
def test_an_engine_on_a_cpu_may_use_the_registers_that_the_cpu_has(torch_python: Path, cuda: str | None) -> None:
    has = "amx_tile" in Path("/proc/cpuinfo").read_text().split()
    code = f"import torch\ntorch.version.cuda = {cuda!r}\n{VLLM}\nvllm(is_cpu=True)\nprint(permitted())"
    assert answers(torch_python, f"{code}\n{REGISTER}\nprint(permitted())") == ["False", str(has)]


def test_an_engine_on_cards_asks_for_nothing(torch_python: Path) -> None:
    code = f"import torch\n{VLLM}\nvllm(is_cpu=False)"
    assert answers(torch_python, f"{code}\n{REGISTER}\nprint(permitted())") == ["False"]


@pytest.mark.parametrize("vllm", ["", f"{VLLM}\nvllm(is_cpu=True)"], ids=["no-vLLM", "vLLM"])
def test_a_process_without_torch_asks_for_nothing(torch_python: Path, vllm: str) -> None:
    assert answers(torch_python, f"{vllm}\n{REGISTER}\nprint(permitted())") == ["False"]
