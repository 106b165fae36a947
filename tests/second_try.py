"""`python -m tests.second_try`: runs the tests that failed in the last run once more, alone, and reports both results.

CI calls it after a run with failures. It ends with 0 only if each failed test is listed in tests/flaky.toml and passes now: any other test
that passes the second time depends on what runs beside it, which is a defect to mend.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_FILES = 2
"""Tests of more failed files than these have a common cause, and would take longer than CI has."""
LAST_FAILED = ROOT / ".pytest_cache/v/cache/lastfailed"


def files_of(failed: Iterable[str]) -> list[str]:
    """Return what runs once more: whole files, since the tests of one may share hosts; none where there are too many."""
    files = sorted({node.partition("::")[0] for node in failed})
    return files if len(files) <= MOST_FILES else []


def report(failed: Collection[str], failed_again: Collection[str], listed: Collection[str]) -> tuple[list[str], bool]:
    """Return a line for each failed test, and whether the run passes.

    Args:
        failed: Node ids that failed first.
        failed_again: Node ids that failed alone, too.
        listed: Node ids of tests/flaky.toml.
    """
    lines, passes = [], bool(failed)
    for test in sorted({*failed, *failed_again}):
        if test in failed_again:
            lines.append(f"failed, and failed alone: {test}")
        elif test in listed:
            lines.append(f"failed, and passed alone, as tests/flaky.toml has it: {test}")
            continue
        else:
            lines.append(
                f"failed, and passed alone; find out why, or list it in tests/flaky.toml with its cause: {test}"
            )
        passes = False
    return lines, passes


def last_failed() -> list[str]:
    """Return the node ids that failed in the last run of pytest."""
    return list(json.loads(LAST_FAILED.read_text(encoding="utf-8"))) if LAST_FAILED.exists() else []


def main() -> int:
    failed = last_failed()
    files = files_of(failed)
    if not files:
        print(f"second try: none, {len(failed)} tests of too many files failed")  # noqa: T201 - this is a script
        return 1
    print(f"second try, alone: {' '.join(files)}", flush=True)  # noqa: T201
    command = [str(ROOT / "firstlight"), "test", "--tb=short", "-n", "0", *files]
    ended = subprocess.run(command, check=False).returncode
    again = last_failed() if ended else []
    listed = tomllib.loads((ROOT / "tests/flaky.toml").read_text(encoding="utf-8")).get("flaky", [])
    lines, passes = report(failed, again, {row["test"] for row in listed})
    print(*lines, sep="\n")  # noqa: T201
    return int(not passes or ended > 1)


if __name__ == "__main__":
    sys.exit(main())
