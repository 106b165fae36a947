"""How many compilers run at once."""

import pytest

from provision.features.wheel_builder.onbuilder import facts

GIB = facts.GIB


@pytest.mark.parametrize(
    ("cores", "free", "each", "jobs"),
    [(16, 64 * GIB, 7.0, 9), (2, 64 * GIB, 7.0, 2), (16, 3 * GIB, 7.0, 1), (1, 0, 7.0, 1)],
)
def test_the_number_of_jobs_follows_cores_and_memory_and_is_never_zero(
    cores: int, free: int, each: float, jobs: int
) -> None:
    assert facts.jobs(cores, free, each) == jobs


def test_a_possible_lack_of_memory_is_reported_before_a_compiler_is_killed() -> None:
    assert facts.describe(2, 23 * GIB, 2, 7.0) == "23.0 GiB free, 2 cores: 2 at once"
    text = facts.describe(2, 3 * GIB, 1, 7.0)
    assert text == "3.0 GiB free, 2 cores: 1 at once; one may need 7 GiB and be killed for lack of memory"
