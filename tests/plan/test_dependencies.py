"""The dependencies of a release: those of its own time, except for the newest releases."""

from dataclasses import replace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from provision.catalog import catalog
from provision.core.models.stack import DependencyPlan
from tests.plan.planned import HOST, resolve, stack_of


def plan_for(version: str) -> DependencyPlan:
    found = stack_of(resolve(HOST.format("H100x1"), vllm=f"=={version}")).dependencies
    assert found is not None
    return found


def bound(version: str, distribution: str) -> Requirement:
    return next(found for text in plan_for(version).bounds if (found := Requirement(text)).name == distribution)


def top(requirement: Requirement) -> Version:
    [specifier] = requirement.specifier
    return Version(specifier.version)


def test_the_first_users_release_gets_the_transformers_of_its_time() -> None:
    """4.54 registers `aimv2`, as vLLM 0.9.1 does: `'aimv2' is already used by a Transformers config`."""
    transformers = bound("0.9.1", "transformers").specifier
    assert "4.52.4" in transformers
    assert "4.54.0" not in transformers


def test_the_newest_releases_get_the_newest_dependencies() -> None:
    newest = catalog().releases[-1].version
    assert plan_for(newest).until is None
    assert [Requirement(text).name for text in plan_for(newest).bounds] == ["cuda-python"]


def test_releases_of_a_refresh_change_no_bounds_of_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = catalog().releases[-1]
    found = plan_for(newest.version)
    later = replace(newest, version="99.0.0", date="2099-01-01", inferred=True)
    monkeypatch.setattr(catalog(), "releases", (*catalog().releases, later))
    assert plan_for(newest.version) == found


def test_every_release_has_a_day_and_later_ones_have_wider_bounds() -> None:
    days = [row.date for row in catalog().releases]
    assert all(days)
    assert days == sorted(days, key=str)
    for distribution in ("transformers", "openai"):
        earlier, later = (top(bound(version, distribution)) for version in ("0.11.0", "0.12.0"))
        assert earlier < later


def test_a_torch_without_vllm_has_no_bounds() -> None:
    assert stack_of(resolve(HOST.format("H100x1"), vllm="none")).dependencies is None
