"""Features are folders that the core works without: nothing of the core names one, and a copy without one still works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_imports import ROOT, complaint, imported, sources

FEATURES = tuple(sorted(path.parent.name for path in (ROOT / "provision/features").glob("*/__init__.py")))
NEEDS = {"multinode": {"firewall"}, "quarantine": {"gateway"}, "rollout": {"gateway"}}
"""Other features that a feature imports, by its name; it goes with them."""
COPIED = ("provision", "verify", "playbooks", "inventory", "requirements")
QUICK = ("tests/plan/test_explain.py", "tests/pipeline/test_up_to_date.py", "tests/report/test_text.py")
"""Tests of the core that a copy without a feature has to pass."""


def feature_of(path: Path) -> str | None:
    """Return the feature that a module belongs to; None for the core."""
    parts = path.relative_to(ROOT / "provision").parts
    return parts[1] if parts[0] == "features" and len(parts) > 2 else None


def test_the_core_imports_no_feature_and_a_feature_only_those_that_it_needs() -> None:
    wrong = []
    for path in sources("provision"):
        own = feature_of(path)
        for line, module in imported(path):
            other = module.removeprefix("provision.features.").partition(".")[0]
            if module.startswith("provision.features.") and other != own and other not in NEEDS.get(own or "", ()):
                wrong.append(complaint(path, line, f"imports `{module}`"))
    assert not wrong, "\n".join(wrong)


def test_every_feature_says_what_it_is() -> None:
    assert FEATURES
    for name in FEATURES:
        assert (ROOT / "provision/features" / name / "README.md").is_file(), name
        assert (ROOT / "tests/features" / name).is_dir(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_a_copy_without_a_feature_plans_and_passes_tests_of_the_core(name: str, tmp_path: Path) -> None:
    gone = (name, *(other for other, needed in NEEDS.items() if name in needed))
    for folder in (*COPIED, "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", *gone))
    for file in ("pyproject.toml", "ansible.cfg", "README.md"):
        shutil.copy(ROOT / file, tmp_path / file)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FIRSTLIGHT_LOGS": str(tmp_path / "logs")}

    def run(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    assert json.loads(run("-m", "provision", "plan", "--what-if", "H100x8", "--json"))["stack"]
    assert "changes" in run("-m", "provision", "provision", "--dry-run")
    run("-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *QUICK)
