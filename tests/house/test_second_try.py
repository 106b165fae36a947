"""What CI does after failures: they stand, but for tests that tests/flaky.toml lists and that pass alone."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.second_try import files_of, report

ROOT = Path(__file__).parents[2]
FLAKY, OTHER = "tests/fleet/test_faults.py::test_a_fault[full]", "tests/plan/test_explain.py::test_it"


def test_files_run_whole_and_no_more_than_two() -> None:
    assert files_of([FLAKY, OTHER, f"{OTHER}_too"]) == ["tests/fleet/test_faults.py", "tests/plan/test_explain.py"]
    assert files_of([f"tests/fleet/test_{name}.py::test_it" for name in ("a", "b", "c")]) == []


@pytest.mark.parametrize(
    ("failed", "again", "listed", "passes"),
    [
        ([FLAKY], [], [FLAKY], True),
        ([FLAKY], [], [], False),
        ([FLAKY], [FLAKY], [FLAKY], False),
        ([FLAKY, OTHER], [], [FLAKY], False),
        ([FLAKY], [OTHER], [FLAKY], False),
        ([], [], [FLAKY], False),
    ],
)
def test_a_run_passes_only_with_listed_tests_that_pass_alone(
    failed: list[str], again: list[str], listed: list[str], passes: bool
) -> None:
    lines, passed = report(failed, again, listed)
    assert passed is passes
    assert len(lines) == len({*failed, *again})
    assert all(any(test in line for line in lines) for test in (*failed, *again))


def test_each_listed_test_has_a_cause() -> None:
    for row in tomllib.loads((ROOT / "tests/flaky.toml").read_text(encoding="utf-8")).get("flaky", []):
        assert row.keys() == {"test", "cause"}
        assert (ROOT / row["test"].partition("::")[0]).exists()


@pytest.mark.parametrize(
    ("codes", "listed", "ends_with", "runs"),
    [([0], False, 0, 1), ([1, 0], True, 0, 2), ([1, 0], False, 1, 2), ([1, 1], True, 1, 2), ([2, 0], True, 2, 1)],
)
def test_ci_ends_as_the_report_does(tmp_path: Path, codes: list[int], listed: bool, ends_with: int, runs: int) -> None:
    for name in (".ci/run", "tests/second_try.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    flaky = f'[[flaky]]\ntest = "{FLAKY}"\ncause = "an example"\n' if listed else ""
    suite = f"""#!/bin/sh
echo run >> runs
code=$(sed -n "$(wc -l < runs)p" codes)
mkdir -p .pytest_cache/v/cache
[ "$code" = 0 ] || printf '{{"{FLAKY}": true}}' > .pytest_cache/v/cache/lastfailed
exit "$code"
"""
    for name, text in {
        ".venv/bin/python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n',
        "firstlight": suite,
        "codes": "".join(f"{code}\n" for code in codes),
        "tests/flaky.toml": flaky,
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(["bash", tmp_path / ".ci/run"], cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, len((tmp_path / "runs").read_text().split())) == (ends_with, runs)
