"""What the product does with secrets, with manipulated files, and with hostile hosts; and the modes of the files that it leaves.

    .venv/bin/python -m benchmarks.security [--hosts]

Each case is a row: what was done, what had to happen, what happened. Nothing is timed, and the result is always kept, in
benchmarks/results/security.json. Many cases are tests of the suite (security_cases/tested.toml); those of them that boot test hosts
are `not run` without `--hosts`. The exit code is 1 if a case fails.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, header, parser, publish
from benchmarks.security_cases import permissions, secrets
from benchmarks.security_cases.rows import CASES, Case, Outcome, row_of

LOADED = (secrets, permissions)
TESTED = Path(__file__).with_name("security_cases") / "tested.toml"
TOTALS = {
    "secrets_found": ("secrets",),
    "files_with_wrong_permissions": ("permissions",),
    "manipulations_accepted": ("manipulated files", "host keys"),
    "hostile_input_not_contained": ("hostile host",),
}


def suite_cases() -> list[dict[str, Any]]:
    """Return the cases that tests of the suite prove."""
    cases: list[dict[str, Any]] = tomllib.loads(TESTED.read_text(encoding="utf-8"))["case"]
    return cases


def run_tests(tests: list[str], _: Path, *, run: bool) -> Outcome:
    """Return the outcome of tests of the suite."""
    if not run:
        return Outcome("needs booted hosts: run with --hosts, as root, on an idle machine", status="not run")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    return Outcome(f"{' '.join(tests)}: {last}", int(done.returncode != 0 or "passed" not in last))


def cases(*, hosts: bool) -> list[Case]:
    """Return all cases."""
    by_tests = [
        Case(
            one["group"], one["did"], one["expected"], partial(run_tests, one["tests"], run=hosts or "hosts" not in one)
        )
        for one in suite_cases()
    ]
    return [*CASES, *by_tests]


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--hosts", action="store_true")
    given = options.parse_args()
    result = header("security", ["ansible-core", "py-minisign", "cyclonedx-python-lib"])
    rows = [row_of(one) for one in cases(hosts=given.hosts)]
    result["totals"] = {
        name: sum(row["wrong"] for row in rows if row["group"] in groups) for name, groups in TOTALS.items()
    }
    for name in ("pass", "fail", "not run"):
        result[f"cases_{name.replace(' ', '_')}"] = sum(row["result"] == name for row in rows)
    publish(result | {"rows": rows}, "security", always=True)
    return 1 if result["cases_fail"] else 0


if __name__ == "__main__":
    sys.exit(main())
