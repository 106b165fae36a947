"""Hosts that a command has no answer of are named with the reason, whatever the progress view leaves on the screen."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from provision.core.errors import Exit
from provision.core.models.inventory import GATEWAY, Host, Inventory
from provision.core.models.stack import Plan
from provision.pipeline import CommandRequest, commands, operations
from provision.pipeline.runner import RunOutcome
from provision.report import summarise, write
from provision.run.results import PlannedHosts
from tests.report.sample import CPU_STACK, Folder, facts, host, result

Capture = pytest.CaptureFixture[str]
Ask = Callable[[bool], CommandRequest]
CHANGED = "its host key has changed"
PARTLY = "`planned` and `unequal` are to serve one model together"


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Let every run reach two of four hosts, of which the second fails once its versions are chosen; return the request for it."""
    hosts = [host("planned"), host("unequal"), host("far"), host("gate").model_copy(update={"groups": (GATEWAY,)})]
    folder = Folder(tmp_path / "20261120T101500Z", hosts)
    folder.planned(["planned", "unequal"], CPU_STACK)
    folder.results(
        *(result(name, "probe") for name in ("planned", "unequal")),
        *(result(name, "probe", "unreachable", text=CHANGED, hint="./firstlight status") for name in ("far", "gate")),
        result("planned", "plan"),
        result("unequal", "plan", "failed", text=PARTLY),
    )
    found = {name: facts(name) for name in ("planned", "unequal")}
    plan = Plan.model_validate_json(folder.run.path("plan.json").read_bytes())
    known: tuple[Host, ...] = Inventory.model_validate_json(folder.run.path("inventory.json").read_bytes()).hosts
    summary, planned = summarise(folder.run), PlannedHosts(facts=found, plan=plan)
    outcome = RunOutcome(summary, Exit.RED, planned, known, write(folder.run, summary))
    for module in (commands, operations):
        monkeypatch.setattr(module, "execute", lambda *_: outcome)
    return lambda as_json: CommandRequest("plan", tmp_path, None, {}, tmp_path / "logs", as_json=as_json)


def test_a_plan_has_an_error_for_each_host_without_one(ask: Ask, capsys: Capture) -> None:
    assert commands.plan(ask(False), explain=False) == 1
    hint = "\n\nhint: ./firstlight status -i inventory/mysite"
    expected = [f"unequal: {PARTLY}", f"far: {CHANGED}{hint}", f"gate: {CHANGED}{hint}"]
    assert capsys.readouterr().err == "".join(f"error: {text}\n" for text in expected)
    commands.plan(ask(True), explain=False)
    printed = capsys.readouterr()
    assert [one["host"] for one in json.loads(printed.out)["missing"]] == ["unequal", "far", "gate"]
    assert printed.err == ""


def test_facts_and_states_as_json_have_errors_beside_them(ask: Ask, capsys: Capture) -> None:
    for command in (commands.probe, operations.status):
        assert command(ask(True)) == 1
        printed = capsys.readouterr()
        assert "far" not in printed.out
        assert f"error: far: {CHANGED}\n" in printed.err


def test_a_status_says_why_a_host_was_not_reached(ask: Ask, capsys: Capture) -> None:
    assert operations.status(ask(False)) == 1
    assert f"\nfar: {CHANGED}\n" in capsys.readouterr().out
