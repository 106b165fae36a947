"""The report for a kernel that cannot be compiled."""

from __future__ import annotations

import pytest

from verify.checks.kernels.calls import _not_made


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
