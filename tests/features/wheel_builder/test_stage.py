"""Stage with a Stack that needs a build: a small CUDA extension replaces flash-attn, torch and nvcc are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.models.facts import User
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.phases.stage import stage
from provision.run.desired_state import desired_state_of
from tests.features.wheel_builder.conftest import Site, nobody
from tests.stage.stacks import FACTS, resolve_to

pytestmark = [pytest.mark.slow, pytest.mark.long("a wheel of CUDA code", seconds=60)]


def test_the_package_is_locked_with_the_torch_that_it_was_built_against(site: Site) -> None:
    lock = Path(site.staged.lock).read_text().splitlines()
    assert [line.split()[0] for line in lock if line.startswith(("torch==", "flash-attn=="))] == [
        "flash-attn==2.8.3",
        f"torch=={site.job.torch.version}",
    ]
    assert any(line.startswith(f"torch=={site.job.torch.version} ") and site.job.torch.sha256 in line for line in lock)
    assert site.staged.stack == site.stack
    assert (site.staged.refused, site.staged.notes) == ((), ())
    [package] = [file for file in site.staged.files if file.name.startswith("flash_attn-")]
    assert (package.sha256, Path(package.path).parent.name) == (site.built.sha256, site.built.sha256)


def test_a_host_installs_the_package_last(site: Site) -> None:
    host = Host(name="gpu-1", connection=Connection(kind="local"), settings=Settings(serve=False))
    facts = FACTS.model_copy(update={"user": User(name="root", uid=0, home="/root")})
    environment = desired_state_of(host, facts, site.staged, tools={}).ansible_vars()["firstlight_environment"]
    assert environment["last"] == ["flash-attn"]


def test_the_next_stage_builds_nothing(site: Site) -> None:
    idle = replace(site.wheel_builder, open_builder=nobody)
    settings = Settings(flash_attn="package", builder="controller")
    store = site.job.store
    refreshed = stage(
        resolve_to(site.stack), settings, FACTS, store=store, client=site.client, packager=idle, refresh=True
    )
    assert not refreshed.from_cache
    assert refreshed.environment == site.staged.environment
