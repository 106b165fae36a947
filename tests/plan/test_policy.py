"""Settings that contradict each other are refused with both names."""

from typing import Any

import pytest

from provision.core.errors import UsageError
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.policy import policy_of
from provision.phases.plan.what_if import parse_what_if


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"flash_attn": "none", "attention": "flash"}, ("`--flash-attn none`", "`--attention flash`")),
        ({"flash_attn": "none", "attention": "FLASH_ATTN"}, ("`--flash-attn none`", "`--attention FLASH_ATTN`")),
        ({"vllm": "none", "flash_attn": "bundled"}, ("`--vllm none`", "`--flash-attn bundled`")),
        ({"vllm": "none", "flash_attn": "both"}, ("`--vllm none`", "`--flash-attn both`")),
        ({"vllm": "none", "attention": "flash"}, ("`--vllm none`", "`--attention flash`")),
        ({"runtime": "podman", "cuda_compat": True}, ("`--set runtime=podman`", "`--set cuda_compat=true`")),
        ({"dtype": "float32", "attention": "flash"}, ("`--set dtype=float32`", "`--attention flash`")),
    ],
)
def test_contradicting_settings_are_refused(values: dict[str, Any], named: tuple[str, str]) -> None:
    with pytest.raises(UsageError) as caught:
        policy_of(Settings(**values))
    assert all(name in caught.value.text for name in named)


def test_the_host_of_a_contradiction_is_named() -> None:
    settings = Settings(vllm="none", attention="flash")
    with pytest.raises(UsageError, match="host `gpu-7`: "):
        choose_stacks({"gpu-7": parse_what_if("gpu=L4x1")}, {"gpu-7": settings})


def test_the_package_is_requested_at_one_release() -> None:
    policy = policy_of(Settings(flash_attn="==2.8.0.post2"))
    assert (policy.flash_attn, policy.flash_version) == ("package", "2.8.0.post2")
    assert policy_of(Settings(flash_attn="both")).flash_version is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("upgrade", ("upgrade", None, None)),
        ("==580.95.05", ("pinned", "580.95.05", None)),
        ("580.95.05", ("pinned", "580.95.05", None)),
        ("580", ("pinned", None, "580")),
        (580, ("pinned", None, "580")),
        ("==580.*", ("pinned", None, "580")),
        ("580.*", ("pinned", None, "580")),
    ],
)
def test_a_driver_is_requested_by_version_or_branch(setting: Any, expected: tuple[str, str | None, str | None]) -> None:
    policy = policy_of(Settings(driver=setting))
    assert (policy.driver, policy.driver_version, policy.driver_branch) == expected


@pytest.mark.parametrize("setting", [">=580", "newest", "58", "==580.95.05.1.2", "580.95.05.1.2"])
def test_a_driver_that_is_neither_version_nor_branch_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="driver"):
        Settings(driver=setting)


@pytest.mark.parametrize(
    ("name", "version"), [("vllm", "0.33.0"), ("vllm", "0.9.1rc1"), ("flash_attn", "2.8.0.post2"), ("torch", "2.3.0")]
)
def test_a_version_alone_is_exactly_that_version(name: str, version: str) -> None:
    assert getattr(Settings.model_validate({name: version}), name) == f"=={version}"


def test_a_branch_without_a_release_in_the_catalog_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        policy_of(Settings(driver="999"))
    assert "no release of driver branch 999" in caught.value.text
    assert "580" in (caught.value.hint or "")


def test_the_distributions_driver_contradicts_a_mirror_of_the_vendors() -> None:
    with pytest.raises(UsageError, match="--set driver_source=distribution"):
        policy_of(Settings(driver_source="distribution", driver_repository="https://mirror.example.com/cuda"))
