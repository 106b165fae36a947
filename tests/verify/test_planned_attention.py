"""Which attention is checked: the one of the Stack, and torch's own as well; and the planned package of flash-attn."""

import sys
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from verify.checks.engine import packages
from verify.records import LEVELS, CheckContext, Level
from verify.runner.registry import all_checks

ALL = {
    "aiter_flash", "aiter_unified", "cudnn", "efficient", "flash", "flash_attn_2", "flash_attn_3", "flash_attn_4", "vllm_rocm", "vllm_triton",
}  # fmt: skip
HOPPER = {"backend": "FLASH_ATTN", "flag": "FLASH_ATTN", "generation": 3}
PACKAGE = {"package": {"version": "2.8.3.post2", "source": "wheel"}}


def checked(stack: dict[str, Any], level: Level = "standard") -> set[str]:
    """Return the names of the attention that would be checked."""
    context = CheckContext(level=level, expect={"stack": stack})
    return {
        check.id.partition(".")[2].removeprefix("sdpa_")
        for check in all_checks()
        if check.family == "attention" and LEVELS.index(check.level) <= LEVELS.index(level)
        if not any(need(context) for need in check.preconditions)
    }


@pytest.mark.parametrize(
    ("stack", "names"),
    [
        ({"attention": HOPPER}, {"flash", "vllm_flash_3"}),
        ({"attention": HOPPER, "flash_attn": PACKAGE}, {"flash", "vllm_flash_3", "flash_attn_2"}),
        (
            {"attention": HOPPER, "flash_attn": {"package": {"distribution": "flash-attn-4", "version": "4.0.0b36"}}},
            {"flash", "vllm_flash_3", "flash_attn_4"},
        ),
        ({"attention": {**HOPPER, "generation": None}}, {"flash", "vllm_flash_2", "vllm_flash_3", "vllm_flash_4"}),
        ({"attention": {"backend": "CPU_ATTN", "generation": None}}, {"flash", "vllm_cpu"}),
        ({"attention": {"backend": "TRITON_ATTN", "generation": None}}, {"flash", "vllm_triton"}),
        ({"attention": {"backend": "ROCM_ATTN", "generation": None}}, {"flash", "vllm_rocm"}),
        ({"attention": {"backend": "ROCM_AITER_UNIFIED_ATTN", "generation": None}}, {"flash", "aiter_unified"}),
        ({"attention": {"backend": "ROCM_AITER_MLA", "generation": None}}, {"flash", "aiter_flash"}),
        ({"attention": {"backend": "ROCM_AITER_FA", "generation": None}}, {"flash", "aiter_flash"}),
        ({"attention": None}, {*ALL, "vllm_cpu", "vllm_flash_2", "vllm_flash_3", "vllm_flash_4"}),
    ],
)
def test_level_standard_checks_only_the_planned_generation(stack: dict[str, Any], names: set[str]) -> None:
    assert checked(stack) == names
    assert checked(stack, "full") == {*ALL, "math", "vllm_cpu", "vllm_flash_2", "vllm_flash_3", "vllm_flash_4"}


def test_the_skip_of_unplanned_attention_names_the_level_that_checks_it() -> None:
    check = next(check for check in all_checks() if check.id == "attention.vllm_flash_2")
    (need,) = check.preconditions
    outcome = need(CheckContext(expect={"stack": {"attention": HOPPER}}))
    assert outcome
    assert outcome.status == "skip"
    assert outcome.reason == "the plan serves with FLASH_ATTN of generation 3; other attention: --level full"


@pytest.mark.parametrize(
    ("installed", "planned", "expected"),
    [
        ("flash-attn-4", "4.0.0b36", "ok: flash-attn-4 4.0.0b36 imports"),
        ("flash-attn-4", "4.0.0b19", "fail: flash-attn-4 is 4.0.0b36, and the plan has 4.0.0b19"),
        ("flash-attn", "4.0.0b36", "fail: flash-attn-4 4.0.0b36 is planned and not installed"),
        ("flash-attn-4", None, "ok: flash-attn-4 4.0.0b36 imports"),
        ("flash-attn", None, "fail: flash-attn 4.0.0b36 does not import: "),
    ],
)
def test_the_planned_distribution_is_compared_and_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: str, planned: str | None, expected: str
) -> None:
    folder = tmp_path / "x.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {installed}\nVersion: 4.0.0b36\n")
    monkeypatch.setattr(packages, "installed", lambda: {installed: [Distribution.at(folder)]})
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    monkeypatch.setitem(sys.modules, "flash_attn.cute", ModuleType("flash_attn.cute"))
    package = planned and {"distribution": "flash-attn-4", "version": planned}
    outcome = packages.flash_attn(
        CheckContext(expect={"stack": {"flash_attn": {"provider": "bundled", "package": package}}})
    )
    assert f"{outcome.status}: {outcome.reason}".startswith(expected), outcome.reason
