"""Features are folders that the core works without: nothing of the core names one, and a copy without one, or without all, still works."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.test_imports import ROOT, complaint, imported, sources

FEATURES = tuple(sorted(path.parent.name for path in (ROOT / "provision/features").glob("*/__init__.py")))
NEEDS = {
    "gateway": {"watchdog"},
    "multinode": {"firewall"},
    "quarantine": {"gateway", "watchdog"},
    "rollout": {"gateway", "watchdog"},
}
"""Other features that a feature imports, or that those need, by its name; it goes with them."""
COPIED = ("provision", "verify", "playbooks", "inventory", "requirements", "tests")
QUICK = ("tests/plan/test_explain.py", "tests/pipeline/test_up_to_date.py", "tests/report/test_text.py")
"""Tests of the core that a copy without features has to pass."""


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


@pytest.mark.long("copies without features", seconds=55)
@pytest.mark.parametrize("name", FEATURES)
def test_a_copy_without_a_feature_plans(name: str, tmp_path: Path) -> None:
    dependents = {other for other, needed in NEEDS.items() if name in needed}
    plans(copy_without({name} | dependents, tmp_path))


@pytest.mark.long("copies without features", seconds=55)
def test_a_copy_without_features_plans_and_passes_tests_of_the_core(tmp_path: Path) -> None:
    plans(copy_without(set(FEATURES), tmp_path))
    run(tmp_path, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *QUICK)


def copy_without(features: set[str], target: Path) -> Path:
    """Copy the product and its tests, by hard links, without some features and their tests; return the copy."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        return features.intersection(names) if Path(folder).name == "features" else set()

    for folder in COPIED:
        shutil.copytree(ROOT / folder, target / folder, ignore=left_out, copy_function=link)
    for file in ("pyproject.toml", "ansible.cfg", "README.md"):
        shutil.copy(ROOT / file, target / file)
    return target


def link(source: str, target: str) -> None:
    """Link a file, or copy it with its times to another file system: compiled files are valid for those."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def plans(copy: Path) -> None:
    """Plan a host that is described, and this one."""
    assert json.loads(run(copy, "-m", "provision", "plan", "--what-if", "H100x8", "--json"))["stack"]
    assert "changes" in run(copy, "-m", "provision", "provision", "--dry-run")


def run(copy: Path, *words: str) -> str:
    """Return what Python prints in a copy."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "FIRSTLIGHT_LOGS": str(copy / "logs")}
    done = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
