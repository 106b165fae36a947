"""The comparison with ansible-playbook: a turn counts only if nothing had to change."""

import pytest

from benchmarks.second_run import ansible_problem

RECAP = """
PLAY RECAP *********************************************************************
alpha                      : ok=14   changed=0    unreachable=0    failed=0    skipped=6    rescued=0    ignored=0
beta                       : ok=14   changed={changed}    unreachable={unreachable}    failed=0    skipped=6    rescued=0    ignored=0
"""


def test_an_unchanged_recap_is_no_problem() -> None:
    assert ansible_problem(RECAP.format(changed=0, unreachable=0), 2) is None


@pytest.mark.parametrize(("changed", "unreachable"), [(1, 0), (0, 1)])
def test_a_recap_with_a_change_or_a_silent_host_is_a_problem(changed: int, unreachable: int) -> None:
    problem = ansible_problem(RECAP.format(changed=changed, unreachable=unreachable), 2)
    assert problem == f"beta: changed={changed}    unreachable={unreachable}    failed=0"


def test_a_recap_that_lacks_a_host_is_a_problem() -> None:
    assert ansible_problem(RECAP.format(changed=0, unreachable=0), 3) == "the recap names 2 of 3 hosts"
    assert ansible_problem("ERROR! the playbook could not be found\n", 3) == "the recap names 0 of 3 hosts"
