"""Options of every command that plans, and settings as `--set NAME=VALUE`."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from provision.cli.main import app
from provision.cli.options import asked
from provision.core.errors import FirstlightError, UsageError
from provision.core.models.settings import OPTIONS, Settings
from provision.fleet.inventory import load

PARSER: Any = typer.main.get_command(app)
PLANNING = {*OPTIONS.values(), "--set", "--inventory", "--limit"} - {"--prefix"}
PLANS = ("provision", "plan", "stage", "install", "rollout start", "bundle create")
PARTS = {"drivers": {"--host", "--port"}, "serve": {"--reboot"}}
"""Commands for a part of a plan, and the options that have no effect on that part."""


def options_of(name: str) -> set[str]:
    command = PARSER
    for word in name.split():
        command = command.commands[word]
    return {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", PLANS)
def test_every_command_that_plans_has_the_same_options(name: str) -> None:
    assert options_of(name) >= PLANNING


@pytest.mark.parametrize("name", ["provision", "stage", "install", "serve"])
def test_every_command_that_stages_takes_a_bundle(name: str) -> None:
    assert options_of(name) >= {"--bundle", "--trust", "--older-bundle"}


@pytest.mark.parametrize(("name", "without"), PARTS.items())
def test_a_command_for_a_part_has_no_option_without_effect(name: str, without: set[str]) -> None:
    assert options_of(name) & PLANNING == PLANNING - without


def test_each_setting_with_an_option_is_a_setting() -> None:
    assert OPTIONS.keys() <= Settings.model_fields.keys()


def loaded(path: Path, **given: Any) -> Any:
    """Return the settings of the one host, or the message of the error."""
    try:
        return load(path, overrides=asked("plan", **given).overrides).hosts[0].settings
    except FirstlightError as error:
        return error.text


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory without settings. One file for all tests: what Ansible reads of it is cached."""
    path = tmp_path_factory.mktemp("bare") / "hosts.yml"
    path.write_text("all: {hosts: {a: }}")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_model_len", "8192"),
        ("env", "{OMP_NUM_THREADS: 4}"),
        ("gateway_tls", "no"),
        ("vllm_args", "[--max-num-seqs, '8']"),
        ("dtype", "int3"),
        ("gpus", "0"),
        ("prot", "1"),
    ],
)
def test_set_reads_a_value_as_an_inventory_file(bare: Path, tmp_path: Path, name: str, text: str) -> None:
    whole = tmp_path / "whole.yml"
    whole.write_text(f"all: {{hosts: {{a: }}, vars: {{firstlight_{name}: {text}}}}}")
    written = loaded(whole)
    for spelling in (name, f"firstlight_{name}"):
        typed = loaded(bare, assignments=[f"{spelling}={text}"])
        if isinstance(written, str):
            assert typed == written.partition(": firstlight")[0] + f": --set {name}: " + written.rpartition("): ")[2]
        else:
            assert typed == written
            json.dumps(typed.model_dump(mode="json"))


def test_a_requirement_needs_no_quotes_within_its_value(bare: Path) -> None:
    assert loaded(bare, assignments=["vllm=>=0.30"]).vllm == ">=0.30"


def test_a_message_names_what_can_be_typed(bare: Path) -> None:
    with pytest.raises(FirstlightError) as raised:
        load(bare, overrides=asked("plan", bind="0.0.0.0").overrides)
    assert "--host: 0.0.0.0" in raised.value.text
    assert "--set expose=true" in str(raised.value.hint)


def test_a_setting_is_given_once() -> None:
    with pytest.raises(UsageError, match="set twice: by --port and by --set"):
        asked("plan", port="8001", assignments=["firstlight_port=8002"])


@pytest.mark.parametrize("text", ["port", "port=", "port= ", "port=null"])
def test_a_setting_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=f"`--set {text}` has no value"):
        asked("plan", assignments=[text])


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("gateway_bind=::", "gateway_bind", "::"),
        ("firstlight_metrics_bind=fd00::", "metrics_bind", "fd00::"),
        ("bind=::1", "bind", "::1"),
        ("mig={0: [3g.40gb]}", "mig", {0: ["3g.40gb"]}),
        ("env={A: '::'}", "env", {"A": "::"}),
    ],
)
def test_a_value_is_read_as_in_a_file_and_an_address_as_it_is(text: str, name: str, value: Any) -> None:
    assert asked("plan", assignments=[text]).overrides == {name: value}
