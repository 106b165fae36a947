"""The texts of `plan`, as snapshots."""

import pytest
from syrupy.assertion import SnapshotAssertion

from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.explain import render
from provision.phases.plan.what_if import parse_what_if
from provision.run.host_changes import changes_of
from tests.plan.cases import CASES

BY_NAME = {case.name: case for case in CASES}


def text(name: str, *, explain: bool = False) -> str:
    case = BY_NAME[name]
    planned = case.plan()
    host = Host(name=name, connection=Connection(kind="local", become=case.become), settings=case.settings)
    stack = planned.for_host(name).stack
    changes = {name: changes_of(host, case.facts, stack)} if stack else {}
    return render(planned, {name: case.settings}, changes=changes, explain=explain)


@pytest.mark.parametrize(
    "name",
    [
        "first-users-2x-rtx-4070-ti-super",
        "cpu-bare-root",
        "cpu-user-lacks-packages",
        "cpu-user-complete-no-lingering",
        "h100-upgrade",
        "h100-r535",
        "p100",
        "cpu-torch-alone",
        "mi300x-rocm-7",
    ],
)
def test_plan(name: str, snapshot: SnapshotAssertion) -> None:
    assert text(name) == snapshot


@pytest.mark.parametrize("name", ["first-users-2x-rtx-4070-ti-super", "t4-demands-flash"])
def test_trace(name: str, snapshot: SnapshotAssertion) -> None:
    assert text(name, explain=True) == snapshot


def test_many_equal_hosts_are_counted() -> None:
    facts = {f"gpu-{number:03}": parse_what_if("gpu=L4x1 driver=580.65.06") for number in range(20)}
    lines = render(choose_stacks(facts, dict.fromkeys(facts, Settings())), {}).splitlines()
    assert lines[0] == "20 equal hosts: gpu-000, gpu-001, gpu-002, gpu-003, gpu-004, gpu-005 and 14 more"


def test_a_release_that_nothing_has_is_refused_without_a_candidate() -> None:
    facts = {"h": parse_what_if("gpu=L4x1 driver=580.65.06")}
    lines = render(choose_stacks(facts, {"h": Settings(vllm="==0.99.0")}), {}).splitlines()
    assert lines[2].startswith(
        "  vllm-requested  the catalog has no build for `--vllm ==0.99.0` on cuda; ./firstlight catalog refresh"
    )


def test_compatibility_libraries_and_wheel_publishers_are_named() -> None:
    output = text("h100-cuda-compat")
    assert "cuda-compat-13-0 extends the driver, only for the service and its checks" in output
    assert "cuda-compat-13-0, only for the service" in output
    assert "manylinux_2_28_x86_64.whl, from mjun0812/flash-attention-prebuild-wheels" in text("a100-community-wheel")


def test_a_model_over_several_hosts_is_a_line_of_the_plan() -> None:
    lines = text("h100-span-of-two").splitlines()
    assert "  hosts        2 hosts with 8 GPUs each serve one model together: each has a part of the layers" in lines
    line = "  ports        TCP 29501 and 29502 of the first host, 32768 to 60999 of each, from these hosts alone: the run writes the rules into a file"
    assert line in lines
    assert not any(line.startswith("  span ") for line in text("h100-upgrade").splitlines())
