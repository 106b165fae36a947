"""Counting of votes, and the report for a kernel that cannot be compiled."""

from __future__ import annotations

from typing import Any

import pytest

from verify.checks.kernels.compile import _not_made
from verify.checks.kernels.determinism import compare_devices, minority

H100 = "NVIDIA H100 80GB HBM3"


def ballots(*products: str, names: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    return {
        f"cuda:{place}": {
            "evidence": {"name": names[place] if names else H100, "result_hashes": {"product": value, "norm": "n"}}
        }
        for place, value in enumerate(products)
    }


@pytest.mark.parametrize(
    ("hashes", "odd"),
    [
        ({"a": "x", "b": "x", "c": "x"}, []),
        ({"a": "x", "b": "y", "c": "x"}, ["b"]),
        ({"a": "x", "b": "y"}, ["a", "b"]),
        ({"a": "x", "b": "x", "c": "y", "d": "y"}, ["a", "b", "c", "d"]),
    ],
)
def test_the_minority_is_named(hashes: dict[str, str], odd: list[str]) -> None:
    assert minority(hashes) == odd


def test_the_device_with_other_bits_is_named() -> None:
    same = compare_devices(ballots("x", "x", "x"))
    assert same
    assert (same.status, same.reason) == ("ok", "3 devices give the same bits as the equal ones")
    other = compare_devices(ballots("x", "x", "y", "x"))
    assert other
    assert (other.status, other.reason) == ("fail", f"different bits than equal devices: cuda:2: product on {H100}")


def test_different_devices_are_not_compared() -> None:
    assert compare_devices(ballots("x", "y", names=(H100, "NVIDIA L4"))) is None
    assert compare_devices(ballots("x")) is None


@pytest.mark.parametrize(
    ("printed", "words", "remedy"),
    [
        (
            "backend='inductor' raised:\nRuntimeError: Failed to find C compiler. Please specify via CC environment variable.\n",
            "RuntimeError: Failed to find C compiler",
            "install a C compiler",
        ),
        (
            "InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')",
            "InvalidCxx",
            "g++",
        ),
        (
            "/tmp/x/main.c:5:10: fatal error: Python.h: No such file or directory\ncompilation terminated.",
            "Python.h",
            "headers",
        ),
        ("something else", "something else", "doctor"),
    ],
)
def test_a_missing_requirement_of_a_compiled_kernel_is_reported(printed: str, words: str, remedy: str) -> None:
    outcome = _not_made(printed)
    assert outcome.status == "fail"
    assert words in outcome.reason
    assert remedy in (outcome.remedy or "")
