"""engine.flash_attn: the planned distribution, and the module that it is imported as."""

from __future__ import annotations

import sys
from importlib.metadata import Distribution
from pathlib import Path
from types import ModuleType

import pytest

from verify.checks.engine import packages
from verify.records import CheckContext


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
