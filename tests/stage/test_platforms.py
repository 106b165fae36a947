import platform
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import parse_tag, sys_tags

from provision.core.errors import StageError
from provision.phases.stage.solve import Target


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the machine's own tags are compared, and they are not glibc's"
)
def test_tags_for_this_machine_equal_those_of_packaging() -> None:
    glibc = platform.libc_ver()[1].split(".")[1]
    target = Target.of(f"{platform.machine()}-manylinux_2_{glibc}", "{}.{}".format(*sys.version_info[:2]))
    assert [str(tag) for tag in target.tags()] == [str(tag) for tag in sys_tags()]


@pytest.mark.parametrize(
    ("wheel_tag", "fits"),
    [
        ("cp312-cp312-manylinux_2_28_aarch64", True),
        ("cp38-abi3-manylinux2014_aarch64", True),
        ("cp312-cp312-manylinux_2_35_aarch64", False),
        ("cp312-cp312-manylinux_2_28_x86_64", False),
        ("py3-none-any", True),
    ],
)
def test_wheels_for_another_host_are_chosen_by_its_platform(wheel_tag: str, fits: bool) -> None:
    tags = set(Target.of("aarch64-manylinux_2_34", "3.12.4").tags())
    assert bool(tags & parse_tag(wheel_tag)) is fits


@given(minor=st.integers(17, 90))
def test_uv_never_gets_a_newer_glibc_than_the_hosts(minor: int) -> None:
    reported = Target.of(f"x86_64-manylinux_2_{minor}", "3.12").uv_platform
    assert int(reported.rpartition("_")[2]) <= minor


def test_markers_are_evaluated_for_the_host() -> None:
    markers = Target.of("aarch64-manylinux_2_39", "3.13").markers()
    assert (markers["platform_machine"], markers["python_full_version"]) == ("aarch64", "3.13.0")


@pytest.mark.parametrize("text", ["x86_64-musllinux_1_2", "riscv64-manylinux_2_39", "", "x86_64-manylinux_2_36\n"])
def test_other_platforms_are_refused_with_what_is_supported(text: str) -> None:
    with pytest.raises(StageError, match="no wheels can be chosen") as caught:
        Target.of(text, "3.12")
    assert caught.value.hint == "supported are x86_64-manylinux_2_N and aarch64-manylinux_2_N (glibc 2.N)"


def test_a_glibc_that_is_too_old_is_named() -> None:
    with pytest.raises(StageError, match=r"glibc 2\.12 is older"):
        _ = Target.of("x86_64-manylinux_2_12", "3.12").uv_platform
