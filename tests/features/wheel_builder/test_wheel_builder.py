"""The wheel builder of a run: the builds of the plan, and the hosts that build."""

from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Plan, Stack
from provision.features.wheel_builder.hooks import packager
from provision.features.wheel_builder.wheel_builder import WheelBuilder
from provision.fleet.ssh.local import LocalSession
from provision.phases.stage.wheelhouse import Store
from tests.features.wheel_builder.keys import make_key
from tests.stage.stacks import make_stack, resolve_to


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "hosts.yml"
    path.write_text(
        "all:\n  hosts:\n    gpu-1: {ansible_connection: local}\n    builder-1: {ansible_connection: local}\n"
    )
    return path


def stack_with(*cards: str, source: str = "built") -> Stack:
    package = FlashAttnPackage.model_validate(
        {"version": "2.8.3", "source": source, "file": "f.whl", "key": make_key(capabilities=cards).built_for}
    )
    return make_stack(None, None).model_copy(update={"flash_attn": FlashAttnPlan(provider="bundled", package=package)})


def builder(inventory: Path, *stacks: Stack) -> WheelBuilder:
    return packager(
        Store(inventory.parent / "cache"), inventory, Plan(classes=tuple(resolve_to(stack) for stack in stacks))
    )


def test_the_builder_has_the_builds_of_all_classes(inventory: Path) -> None:
    published = stack_with("12.0", source="wheel")
    plain = make_stack(None, None)
    keys = builder(inventory, stack_with("9.0"), stack_with("8.0"), published, plain).fleet
    assert [key.built_for.capabilities for key in keys] == [("9.0",), ("8.0",)]


@pytest.mark.parametrize("name", ["controller", "builder-1"])
def test_a_build_host_is_this_machine_or_any_host_of_the_inventory(inventory: Path, name: str) -> None:
    session = builder(inventory).open_builder(name)
    assert isinstance(session, LocalSession)
    assert session.host == name


def test_a_build_host_with_several_services_is_meant_by_its_own_name(tmp_path: Path) -> None:
    services = "{chat: {}, code: {port: 8001}}"
    (tmp_path / "hosts.yml").write_text(
        f"all: {{hosts: {{gpu-1: {{ansible_connection: local, firstlight_services: {services}}}}}}}\n"
    )
    found = [builder(tmp_path / "hosts.yml").open_builder(name).host for name in ("gpu-1", "gpu-1@chat")]
    assert [host.partition("@")[0] for host in found] == ["gpu-1", "gpu-1"]


def test_an_unknown_build_host_is_refused_with_the_known_ones(inventory: Path) -> None:
    with pytest.raises(StageError, match="builder `builder-2` is no host of") as caught:
        builder(inventory).open_builder("builder-2")
    assert caught.value.hint == "name one of builder-1, gpu-1, or controller"
