"""Inventories that would hang or crash a run: each is refused in one error."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from provision.core.errors import FirstlightError, InventoryError, UsageError
from provision.core.models.settings import Settings
from provision.fleet.inventory import load
from provision.fleet.inventory.conflicts import conflicts
from provision.fleet.inventory.connections import connection_of
from provision.fleet.inventory.settings import Problems, settings_of
from tests.inventory.conftest import Make
from tests.strange import JSON, TEXT

ONE = "all: {vars: {ansible_connection: local}, hosts: {a: {}}}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", ["firstlight_env: &e {A: *e}\n", "x: " + "[" * 200_000], ids=["itself", "endless"]
)
def test_endless_yaml_is_refused(make: Make, variables: str) -> None:
    with pytest.raises(InventoryError) as caught:
        load(make(ONE, group_vars__all_yml=variables))
    assert caught.value.hint


def test_an_alias_used_by_many_hosts_is_accepted(make: Make) -> None:
    path = make(
        "all:\n  vars: {ansible_connection: local}\n  hosts:\n    a: &common {firstlight_port: 8001, firstlight_env: {X: y}}\n"
        + "".join(f"    b{number}: *common\n" for number in range(50))
    )
    assert {host.settings.port for host in load(path).hosts} == {8001}


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
def test_only_regular_files_are_read(device: str) -> None:
    with pytest.raises(UsageError, match=f"{device} is neither a file nor a folder"):
        load(Path(device))


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    "name", ["port", "tensor_parallel", "pipeline_parallel", "data_parallel", "max_model_len", "memory_share", "gpus"]
)
def test_true_and_false_are_not_numbers(name: str, value: bool) -> None:
    problems = Problems()
    given_value: Any = [value] if name == "gpus" else value
    assert (
        settings_of("h", variables={f"firstlight_{name}": given_value}, overrides={}, base=Path(), problems=problems)
        is None
    )
    [(variable, text, _)] = problems.by_text
    assert (variable, text) == (f"firstlight_{name}", f"{given_value!r} is not allowed")


@pytest.mark.parametrize("bind", ["[::1]]", "[[::1]", "[127.0.0.1]", "::1]", "[]", "localhost]"])
def test_an_address_with_too_many_brackets_is_invalid(bind: str) -> None:
    [conflict] = conflicts(Settings(bind=bind))
    assert conflict.text == f"{bind!r} is no IP address"


@pytest.mark.parametrize("bind", ["::1", "[::1]", "127.0.0.1", "localhost"])
def test_loopback_is_no_conflict(bind: str) -> None:
    assert conflicts(Settings(bind=bind)) == []


@pytest.mark.parametrize("name", ["bind", "gateway_bind", "metrics_bind", "monitoring_bind"])
def test_an_address_in_brackets_is_listened_on_without_them(name: str) -> None:
    assert getattr(Settings.model_validate({name: "[::1]"}), name) == "::1"


@given(variables=st.dictionaries(st.sampled_from([f"firstlight_{name}" for name in Settings.model_fields]), JSON))
def test_any_value_of_a_variable_is_a_setting_or_a_named_problem(variables: dict[str, Any]) -> None:
    problems = Problems()
    found = settings_of("h", variables=variables, overrides={}, base=Path("/nowhere"), problems=problems)
    assert (found is None) == bool(problems.by_text)


def named(act: Callable[[], object]) -> str | None:
    """Return the text of an expected error; None if there is none."""
    try:
        act()
    except FirstlightError as error:
        return error.text
    return None


CONNECTION = [
    "ansible_connection", "ansible_host", "ansible_port", "ansible_user", "ansible_password", "ansible_timeout",
    "ansible_ssh_private_key_file", "ansible_host_key_checking", "ansible_python_interpreter",
    "ansible_become", "ansible_become_user", "ansible_become_method", "ansible_become_password",
]  # fmt: skip


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ansible_port", "\u00b2"),
        ("ansible_port", "9" * 5000),
        ("ansible_timeout", "nan"),
        ("ansible_timeout", "inf"),
        ("ansible_ssh_private_key_file", "~nobody-of-this-name/key"),
        ("ansible_become_method", ["sudo"]),
        ("ansible_become", {}),
    ],
)
def test_an_invalid_connection_variable_is_refused(variable: str, value: Any) -> None:
    with pytest.raises(InventoryError) as caught:
        connection_of("gpu-1", {variable: value}, Path("/nowhere"))
    assert caught.value.text.startswith("host gpu-1: ")
    assert caught.value.hint


@pytest.mark.parametrize("value", [True, 1, "yes", "On"])
def test_yes_is_written_in_ansibles_forms(value: Any) -> None:
    assert connection_of("gpu-1", {"ansible_connection": "local", "ansible_become": value}, Path("/nowhere")).become


@pytest.mark.parametrize("limit", ["[gpu-[1:2]", "a[b:2]"])
def test_an_invalid_range_in_a_limit_is_refused(make: Make, limit: str) -> None:
    with pytest.raises(InventoryError, match=r"matches no host or group|a bracket has no partner"):
        load(make(ONE), limit=limit)


@settings(deadline=None)  # OpenSSH is asked
@given(variables=st.dictionaries(st.sampled_from(CONNECTION), JSON, max_size=3))
@example(variables={"ansible_ssh_private_key_file": "~\x00"})
@example(variables={"ansible_ssh_private_key_file": "~\ud800"})
@example(variables={"ansible_ssh_private_key_file": "~nobody-here/key"})
def test_any_connection_variables_are_a_connection_or_are_named(variables: dict[str, Any]) -> None:
    message = named(lambda: connection_of("gpu-1", variables, Path("/nowhere")))
    assert message is None or "gpu-1" in message


PATTERNS = [
    *("gpu-1", "gpu-*", "~gpu", "~[", "!cpu-1", "&gpu", "all", "localhost", "gpu-[1:2]", "gpu[0]", "@nowhere"),
    *(",", ":", "[", "]"),
]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an inventory as Ansible has it."""
    manager = importlib.import_module("ansible.inventory.manager")
    dataloader = importlib.import_module("ansible.parsing.dataloader")
    file = tmp_path_factory.mktemp("four") / "hosts.yml"
    file.write_text("gpu: {hosts: {gpu-1: , gpu-2: }}\ncpu: {hosts: {cpu-1: , cpu-2: }}\n")
    return manager.InventoryManager(loader=dataloader.DataLoader(), sources=[str(file)])


@given(limit=st.one_of(TEXT, st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4).map("".join)))
@example(limit=":&,9")
@example(limit="!cpu-1@nowhere")
def test_any_limit_has_patterns_or_is_refused(four: Any, limit: str) -> None:
    """For a limit without a pattern Ansible would take every host, which is meant where only services are excluded."""
    from provision.fleet.inventory import ansible_reader

    assume(limit.strip())
    refused = None
    try:
        patterns = ansible_reader.checked_limit(four, limit)
    except ansible_reader.Refused as error:
        refused = error.answer
    if refused:
        assert refused["hint"]
    else:
        terms = filter(None, re.split("[,:]", limit))
        assert patterns or all(term.startswith("!") and "@" in term for term in terms)
        assert all(pattern.strip("!&").strip() for pattern in patterns)
