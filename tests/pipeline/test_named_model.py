"""A model that a host serves is replaced by the built-in one only where the inventory or an option says so."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.models.facts import HostFacts, Installed
from provision.fleet.inventory import load
from provision.phases.drivers import step as drivers_step
from provision.phases.install.drivers import DriverWork
from provision.phases.plan.step import plan
from provision.pipeline import CommandRequest, commands
from provision.run.results import PlannedHosts, ProbedHosts
from provision.run.step import Step
from tests.pipeline.local_context import local_context

REFUSED = "host `a` serves org-model, and neither the inventory nor an option names a model"


def refusal(
    folder: Path,
    served: str | None,
    *,
    variables: dict[str, Any],
    run: Callable[..., ProbedHosts] = plan,
    **options: Any,
) -> str | None:
    """Return why a host gets no plan from a step. The facts are too few for one: without the refusal another text follows."""
    (folder / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"a": variables}}}))
    context = local_context(folder, "a")
    context = replace(context, inventory=load(folder / "hosts.yml", overrides=options))
    installed = Installed(prefix="/opt/firstlight", state={"model": served} if served else None)
    facts = HostFacts(host="a", probed_at="2026-01-03T00:00:00Z", installed=installed)
    run(context, PlannedHosts({"a": facts}))
    return context.outcomes.results["a"]["plan"].text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("served", "variables", "options", "refused"),
    [
        ("org-model", {}, {}, True),
        ("org-model", {"firstlight_port": 9000}, {"port": 9001}, True),
        ("org-model", {"firstlight_model": "builtin"}, {}, False),
        ("org-model", {}, {"model": "builtin"}, False),
        ("org-model", {}, {"model": "org/model"}, False),
        ("org-model", {"firstlight_serve": False}, {}, False),
        ("org-model", {}, {"vllm": "none"}, False),
        ("builtin-1", {}, {}, False),
        (None, {}, {}, False),
    ],
)
def test_a_served_model_is_not_replaced_because_nothing_names_one(
    served: str | None, variables: dict[str, Any], options: dict[str, Any], refused: bool, tmp_path: Path
) -> None:
    assert (refusal(tmp_path, served, variables=variables, **options) == REFUSED) == refused


def test_no_model_has_to_be_named_for_drivers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Step] = []
    monkeypatch.setattr(commands, "run_steps", lambda _, steps: taken.extend(steps))
    commands.run_drivers(CommandRequest("drivers", tmp_path, None, {}, tmp_path / "logs"))
    planning, drivers = taken[-2:]
    assert refusal(tmp_path, "org-model", variables={}, run=planning.run) != REFUSED
    # After the installation hosts are planned again.
    work = DriverWork(driver={"version": "580.95.05", "module": "open", "source": "vendor"})
    monkeypatch.setattr(drivers_step, "_needed", lambda *_: {"a": work})
    monkeypatch.setattr(drivers_step, "probe", SimpleNamespace(probe=lambda _, planned, names: planned))
    playbooks = SimpleNamespace(acquire_locks=lambda *_: [], run_playbook=lambda *_, **__: {})
    monkeypatch.setattr(drivers_step, "playbooks", playbooks)
    assert refusal(tmp_path, "org-model", variables={}, run=drivers.run) != REFUSED


def test_a_folder_that_does_not_exist_is_refused_by_the_plan(tmp_path: Path) -> None:
    given = {"firstlight_model": "./models/none"}
    assert refusal(tmp_path, None, variables=given) == f"there is no folder {tmp_path}/models/none"
