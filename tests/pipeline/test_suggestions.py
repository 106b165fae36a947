"""A suggested command has the hosts and the options of the run that suggests it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from provision.cli.main import app
from provision.cli.options import asked
from provision.core.errors import UsageError
from provision.core.models.invocation import TAKES, Invocation
from tests.pipeline.command_lines import firstlight, inventory_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("probe",), "./firstlight provision -i {site} --limit o1"),
        (("plan", "--vllm", "none"), "./firstlight provision -i {site} --limit o1 --vllm none"),
    ],
    ids=["probe", "plan"],
)
def test_a_run_over_one_host_suggests_commands_for_that_host(
    arguments: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    site = tmp_path / "inventory" / "local"
    site.mkdir(parents=True)
    bare = {"ansible_connection": "local", "firstlight_prefix": f"{tmp_path}/bare"}  # whatever this machine has
    inventory_of(site, o1=bare, o2=bare)
    done = firstlight(*arguments, "-i", str(site), "--limit", "o1", logs=tmp_path)
    summary = json.loads((tmp_path / "queries" / "latest" / "summary.json").read_text())
    assert done.returncode == 0, done.stderr
    assert summary["next_commands"] == [expected.format(site=site)]


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        ("run ./firstlight provision: it goes on", "run ./firstlight provision{all}: it goes on"),
        ("from one lock (./firstlight provision)", "from one lock (./firstlight provision{all})"),
        ("./firstlight rollback", "./firstlight rollback -i site --limit o1,o2"),
        ("./firstlight provision --limit o1", "./firstlight provision -i site --vllm none --limit o1"),
        ("./firstlight verify soak --minutes 10", "./firstlight verify soak -i site --limit o1,o2 --minutes 10"),
        ("./firstlight doctor --limit NAME", "./firstlight doctor -i site --limit NAME"),
        ("./firstlight doctor server.log", "./firstlight doctor server.log"),
        ("./firstlight logs list", "./firstlight logs list"),
        ("./firstlight gateway ready h1: now", "./firstlight gateway ready h1 -i site: now"),
        ("./firstlight gateway status", "./firstlight gateway status -i site"),
        ("set it up: ./firstlight gateway", "set it up: ./firstlight gateway -i site"),
        ("./firstlight monitoring", "./firstlight monitoring -i site"),
        ("./firstlight provision -i other", "./firstlight provision -i other"),
    ],
)
def test_a_command_in_a_hint_is_for_the_hosts_of_the_run(hint: str, expected: str) -> None:
    typed = Invocation(inventory="site", limit="o1,o2", options={"--vllm": "none"})
    assert typed.complete(hint) == expected.format(all=" -i site --limit o1,o2 --vllm none")
    assert Invocation().complete(hint) == hint


def test_every_command_is_listed_with_its_real_options() -> None:
    repeated = {option for options in TAKES.values() for option in options}
    for name, options in TAKES.items():
        command: Any = typer.main.get_command(app)
        for word in name.split():
            command = command.commands[word]
        command = getattr(command, "commands", {}).get("check", command)
        shown = (parameter for parameter in command.params if not getattr(parameter, "hidden", False))
        real = {option for parameter in shown for option in parameter.opts}
        assert real & repeated == set(options), name
        assert {"-i", "--limit", "-K"} <= real


@pytest.mark.parametrize("name", ["prefix", "firstlight_prefix"])
def test_a_prefix_that_later_commands_would_not_know_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="`prefix` cannot be given by --set") as refused:
        asked("provision", assignments=["port=8001", f"{name}=/data/x"])
    assert refused.value.hint == "write firstlight_prefix into the inventory"


def test_the_typed_command_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["firstlight", "provision"])
    given: dict[str, Any] = {
        "vllm": "none",
        "reboot": True,
        "driver": None,
        "bind": "::1",
        "assignments": ["gpus=[0, 1]", "port=1"],
    }
    monkeypatch.setattr("getpass.getpass", lambda _: "secret")
    request = asked("provision", limit="a b", refresh=True, ask_become_pass=True, **given)
    assert request.invocation.suggest("provision") == (
        "./firstlight provision -K --limit 'a b' --vllm none --reboot --host ::1 --refresh --set 'gpus=[0, 1]' --set port=1"
    )
    assert request.invocation.suggest("status") == "./firstlight status -K --limit 'a b'"
    assert request.invocation.on_inventory("chat", "a") == "./firstlight chat a -K"
    assert request.invocation.complete("./firstlight gateway status") == "./firstlight gateway status -K"
