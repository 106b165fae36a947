"""Prints the test files that CI runs once more, alone, after a run with failures; ends with 1 where the failures stand.

Tests on hosts meet real daemons, kernels and time limits while another test process uses the same two cores. A failure of few of them is
tried once more with nothing else running. Any other failure stands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.lanes import FLEET

MOST_FILES = 2
"""More failed files than these have a common cause, and would take longer than CI has."""
_LAST_FAILED = Path(__file__).resolve().parents[1] / ".pytest_cache/v/cache/lastfailed"


def files_to_try_again(failed: Iterable[str]) -> list[str]:
    """Return the files to run once more, each whole, since its tests may share hosts.

    Args:
        failed: Node IDs of the tests that failed.

    Returns:
        Paths from the root of the repository; none where the failures stand.
    """
    files = sorted({node.partition("::")[0] for node in failed})
    are_few_on_hosts = len(files) <= MOST_FILES and all(file.startswith(f"{FLEET}/") for file in files)
    return files if are_few_on_hosts else []


if __name__ == "__main__":
    found = files_to_try_again(json.loads(_LAST_FAILED.read_text(encoding="utf-8")))
    print(*found)  # noqa: T201 - this is a script
    sys.exit(not found)
