"""The permission for AMX's registers that the plugin asks for, in processes with the real torch."""

import subprocess
from pathlib import Path

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


def test_an_engine_on_a_cpu_may_use_the_registers_that_the_cpu_has(torch_python: Path) -> None:
    has = "amx_tile" in Path("/proc/cpuinfo").read_text().split()
    said = answers(torch_python, f"import torch\nprint(permitted())\n{REGISTER}\nprint(permitted())")
    assert said == ["False", str(has)]


def test_an_engine_on_cards_asks_for_nothing(torch_python: Path) -> None:
    code = "import torch\ntorch.version.cuda = '13.0'"
    assert answers(torch_python, f"{code}\n{REGISTER}\nprint(permitted())") == ["False"]


def test_a_process_without_torch_asks_for_nothing(torch_python: Path) -> None:
    assert answers(torch_python, f"{REGISTER}\nprint(permitted())") == ["False"]
