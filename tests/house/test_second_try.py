"""What CI does after failures: few of tests on hosts are tried once more, alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.second_try import files_to_try_again

ROOT = Path(__file__).parents[2]
ON_HOSTS = "tests/fleet/test_faults.py::test_a_fault[full]"


def test_files_of_failed_tests_on_hosts_are_tried_whole() -> None:
    found = files_to_try_again([ON_HOSTS, "tests/fleet/test_roles.py::test_a", "tests/fleet/test_roles.py::test_b"])
    assert found == ["tests/fleet/test_faults.py", "tests/fleet/test_roles.py"]


@pytest.mark.parametrize(
    "failed",
    [
        [],
        ["tests/plan/test_explain.py::test_it"],
        [ON_HOSTS, "tests/plan/test_explain.py::test_it"],
        [f"tests/fleet/test_{name}.py::test_it" for name in ("a", "b", "c")],
    ],
)
def test_other_failures_stand(failed: list[str]) -> None:
    assert files_to_try_again(failed) == []


def test_ci_passes_only_if_the_second_try_does(tmp_path: Path) -> None:
    assert _ci(tmp_path / "passes", codes=[0], failed=[]) == (0, 1)
    assert _ci(tmp_path / "again", codes=[1, 0], failed=[ON_HOSTS]) == (0, 2)
    assert _ci(tmp_path / "twice", codes=[1, 1], failed=[ON_HOSTS]) == (1, 2)
    assert _ci(tmp_path / "stands", codes=[1, 0], failed=["tests/plan/test_explain.py::test_it"]) == (1, 1)
    assert _ci(tmp_path / "stopped", codes=[2, 0], failed=[ON_HOSTS]) == (2, 1)


def _ci(folder: Path, *, codes: list[int], failed: list[str]) -> tuple[int, int]:
    """Run CI's script with a suite that ends with these exit codes; return its own, and how often it ran the suite."""
    files = (".ci/run", "tests/second_try.py", "tests/lanes.py")
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name, text in {
        ".venv/bin/python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "firstlight": '#!/bin/sh\necho run >> runs\nexit "$(sed -n "$(wc -l < runs)p" codes)"\n',
        "codes": "".join(f"{code}\n" for code in codes),
        ".pytest_cache/v/cache/lastfailed": json.dumps(dict.fromkeys(failed, True)),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    done = subprocess.run(["bash", folder / ".ci/run"], capture_output=True, check=False)
    return done.returncode, len((folder / "runs").read_text().split())
