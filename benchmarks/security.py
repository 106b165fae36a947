"""What the product does with secrets, with manipulated files, and with hostile hosts; and the modes of the files that it leaves.

    .venv/bin/python -m benchmarks.security [--hosts]

Each case is a row: what was done, what had to happen, what happened. Nothing is timed, and the result is always kept, in
benchmarks/results/security.json. Cases with `--hosts` boot test hosts by the tests of the fleet; without it they are `not run`.
A `gap` is what the product does not do. The exit code is 1 if a case fails.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, header, publish
from benchmarks.security_cases import hostile, permissions, secrets, tampering
from benchmarks.security_cases.rows import CASES, Case, Outcome, row_of

LOADED = (secrets, permissions, tampering, hostile)
TOTALS = {
    "secrets_found": ("secrets",),
    "files_with_wrong_permissions": ("permissions",),
    "manipulations_accepted": ("manipulated files", "host keys"),
    "hostile_input_not_contained": ("hostile host",),
}
ON_HOSTS = (
    (
        "secrets",
        "an installation on a booted host: records, journal, units, arguments of all processes on both machines",
        "no secret; the API key only in etc/service.env",
        "tests/fleet/test_secrets.py::test_no_secret_in_records_arguments_or_units",
    ),
    (
        "host keys",
        "hosts behind jump hosts, one of which answers with another key than the known one",
        "refused, on the jump host too",
        "tests/fleet/test_jump_hosts.py",
    ),
    (
        "host keys",
        "the key with which hosts hand files on is used to read something else",
        "only verified files, by hash",
        "tests/fleet/test_peers.py::test_the_key_of_a_run_reads_verified_files_and_nothing_else",
    ),
    (
        "manipulated files",
        "a host hands on wrong bytes to its equals",
        "the receiver refuses them, and the controller sends its own",
        "tests/fleet/test_peers.py::test_wrong_bytes_of_a_host_are_replaced_by_the_controller",
    ),
)


def on_hosts(test: str, *, run: bool) -> Outcome:
    """Return the outcome of a test that boots hosts."""
    if not run:
        return Outcome("needs booted hosts: run with --hosts, as root, on an idle machine", status="not run")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.strip().rpartition("\n")[2]
    return Outcome(f"{test}: {last}", int(done.returncode != 0 or "passed" not in last))


def cases(*, hosts: bool) -> list[Case]:
    """Return all cases."""

    def booted(test: str) -> Any:
        def act(_: Path) -> Outcome:
            return on_hosts(test, run=hosts)

        return act

    return [*CASES, *(Case(group, did, expected, booted(test)) for group, did, expected, test in ON_HOSTS)]


def main(arguments: list[str]) -> int:
    result = header("security", ["ansible-core", "py-minisign", "cyclonedx-python-lib"])
    rows = [row_of(one) for one in cases(hosts="--hosts" in arguments)]
    totals = {name: sum(row["wrong"] for row in rows if row["group"] in groups) for name, groups in TOTALS.items()}
    counted = {
        f"cases_{name}": sum(row["result"] == name for row in rows) for name in ("pass", "fail", "gap", "not run")
    }
    result |= {"totals": totals, **{name.replace(" ", "_"): value for name, value in counted.items()}, "rows": rows}
    publish(result, "security", always=True)
    return 1 if any(row["result"] == "fail" for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
