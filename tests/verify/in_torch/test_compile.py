"""The report for a kernel that cannot be compiled."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from verify.checks.kernels.calls import _not_made, compiled
from verify.records import CheckContext


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


def test_kernels_are_compiled_in_the_installation_where_it_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in /tmp may be executed on a hardened host."""
    places: list[str] = []

    def compile_(work: Any, **_: Any) -> Any:
        places.append(os.environ["TORCHINDUCTOR_CACHE_DIR"])
        return work

    monkeypatch.setattr(torch, "compile", compile_)
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, "")
    for prefix in (None, tmp_path):
        assert compiled(CheckContext(prefix=prefix)).status == "ok"
    (tmp_path / "verify").mkdir()
    assert compiled(CheckContext(prefix=tmp_path)).status == "ok"
    assert [Path(place).parent == tmp_path / "verify" for place in places] == [False, False, True]
