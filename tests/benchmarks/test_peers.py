"""Reading the output of the other tools: a turn counts only when they found nothing to change."""

from __future__ import annotations

import pytest

from benchmarks.peers import LOCK, ansible_problem, exported, pyinfra_problem

RECAP = """
PLAY RECAP *********************************************************************
alpha                      : ok=14   changed=0    unreachable=0    failed=0    skipped=6    rescued=0    ignored=0
beta                       : ok=14   changed={changed}    unreachable={unreachable}    failed=0    skipped=6    rescued=0    ignored=0
"""
TABLE = """--> Results:
    Operation     Hosts   Success   Error   No Change
    Unit          2       {success}         {error}       1
    Grand total   4       {success}         {error}       {unchanged}

--> Disconnecting from hosts...
"""


def test_an_unchanged_recap_is_no_problem() -> None:
    assert ansible_problem(RECAP.format(changed=0, unreachable=0), 2) is None


@pytest.mark.parametrize(("changed", "unreachable"), [(1, 0), (0, 1)])
def test_a_recap_with_a_change_or_a_silent_host_is_a_problem(changed: int, unreachable: int) -> None:
    problem = ansible_problem(RECAP.format(changed=changed, unreachable=unreachable), 2)
    assert problem == f"beta: changed={changed} unreachable={unreachable} failed=0"


def test_a_recap_that_lacks_a_host_is_a_problem() -> None:
    assert ansible_problem(RECAP.format(changed=0, unreachable=0), 3) == "the recap names 2 of 3 hosts"
    assert ansible_problem("ERROR! the playbook could not be found\n", 3) == "the recap names 0 of 3 hosts"


def test_operations_without_a_change_are_no_problem() -> None:
    assert pyinfra_problem(TABLE.format(success="-", error="-", unchanged="4")) is None


@pytest.mark.parametrize(("success", "error"), [("1", "-"), ("-", "1")])
def test_an_operation_with_a_change_or_an_error_is_a_problem(success: str, error: str) -> None:
    problem = pyinfra_problem(TABLE.format(success=success, error=error, unchanged="3"))
    assert problem == f"of 4 operations {success} changed something, {error} failed"


def test_a_missing_table_is_a_problem() -> None:
    assert pyinfra_problem("--> Connecting to hosts...\n") == "pyinfra printed no result table"


def test_settings_are_read_as_by_a_shell() -> None:
    script = "export UV_INDEX='https://one.example/simple https://two.example/simple'\nexport UV_FIND_LINKS=/wheels\n"
    assert exported(script) == {
        "UV_INDEX": "https://one.example/simple https://two.example/simple",
        "UV_FIND_LINKS": "/wheels",
    }


def test_the_lock_of_the_peers_names_no_index() -> None:
    text = LOCK.read_text(encoding="utf-8")
    assert "://" not in text
    assert {"ansible-core==", "mitogen==", "pyinfra=="} <= {
        line.partition("==")[0] + "==" for line in text.splitlines()
    }
