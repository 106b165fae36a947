"""Every role: nothing from Galaxy, every variable documented, no error ignored."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Template

from provision.core.models.settings import Settings
from provision.phases.install.drivers import DriverWork
from tests.install.modules import MODULES, PLAYBOOKS
from tests.pipeline.test_up_to_date import make_desired

ROLES = sorted(path for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
TASK_FILES = sorted(PLAYBOOKS.glob("roles/*/tasks/*.yml"))

# Keywords of a task or block; every other key is the module.
KEYWORDS = {
    "always", "args", "become", "block", "changed_when", "check_mode", "delegate_to", "environment", "failed_when", "loop",
    "delay", "loop_control", "name", "no_log", "notify", "register", "rescue", "retries", "run_once", "tags", "timeout", "until", "vars", "when",
}  # fmt: skip


def tasks_in(node: Any) -> Iterator[dict[str, Any]]:
    for task in node or []:
        if any(key in task for key in ("block", "rescue", "always")):
            for key in ("block", "rescue", "always"):
                yield from tasks_in(task.get(key))
        else:
            yield task


def all_tasks() -> list[tuple[str, dict[str, Any]]]:
    found = [(str(path), task) for path in TASK_FILES for task in tasks_in(yaml.safe_load(path.read_text()))]
    for path in PLAYBOOKS.glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            found += [(str(path), task) for task in tasks_in(play.get("tasks"))]
    return found


def module_of(task: dict[str, Any]) -> str:
    (module,) = set(task) - KEYWORDS
    return module


def test_only_modules_of_ansible_and_ours_are_used_and_each_of_ours_is() -> None:
    modules = {module_of(task) for _, task in all_tasks()}
    assert len(modules) > 5
    assert {module for module in modules if not module.startswith("ansible.builtin.")} == set(MODULES)


def test_nothing_is_fetched_from_galaxy() -> None:
    assert list(PLAYBOOKS.rglob("requirements.yml")) == []
    for role in ROLES:
        assert yaml.safe_load((role / "meta" / "main.yml").read_text())["dependencies"] == []


@pytest.mark.parametrize("play", sorted(PLAYBOOKS.glob("*.yml")), ids=lambda path: path.stem)
def test_a_failed_host_stops_no_other(play: Path) -> None:
    for entry in yaml.safe_load(play.read_text()):
        if "ansible.builtin.import_playbook" not in entry:
            assert (entry["any_errors_fatal"], entry["gather_facts"]) == (False, False)


def test_commands_declare_changes_and_get_their_arguments_unchanged() -> None:
    for path, task in all_tasks():
        if module_of(task) in ("ansible.builtin.command", "ansible.builtin.raw"):
            assert "changed_when" in task, (path, task["name"])
        if module_of(task) == "ansible.builtin.command" and "lookup" in str(task):
            assert task["ansible.builtin.command"]["expand_argument_vars"] is False, (path, task["name"])


def test_no_error_is_ignored() -> None:
    assert [path for path in TASK_FILES if "ignore_errors" in path.read_text()] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_a_role_verifies_its_work_and_documents_its_variables(role: Path) -> None:
    assert list((role / "tasks").glob("9?_verify.yml"))
    readme = (role / "README.md").read_text()
    defaults = yaml.safe_load((role / "defaults" / "main.yml").read_text()) or {}
    specification = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    options = {name for entry in specification.values() for name in entry["options"]}
    assert set(defaults) <= options
    assert all(entry["description"] for entry in specification.values())
    documented = {
        name: option.get("default") for entry in specification.values() for name, option in entry["options"].items()
    }
    for name, value in defaults.items():
        if "{{" not in str(value):
            assert documented[name] == value, name
    for name in options | set(defaults):
        assert f"`{name}`" in readme, name


def unknown(option: dict[str, Any], value: Any, path: str) -> Iterator[str]:
    """Yield the keys of a value that the specification of its option lacks."""
    if "options" not in option or value is None:
        return
    for entry in value if option["type"] == "list" else [value]:
        for key, inner in entry.items():
            if key in option["options"]:
                yield from unknown(option["options"][key], inner, f"{path}.{key}")
            else:
                yield f"{path}.{key}"


@pytest.mark.parametrize(
    "settings",
    [{}, {"serve": False}, {"api_key": False, "port": 8001}, {"bind": "192.0.2.1", "expose": True}, {"bind": "::1"}],
    ids=["default", "serves nothing", "port", "own address", "loopback"],
)
def test_roles_take_all_that_a_plan_gives(tmp_path: Path, settings: dict[str, Any]) -> None:
    """Ansible refuses a key that a specification lacks, and only on a host."""
    given = make_desired(tmp_path, **settings).ansible_vars()
    for role in ROLES:
        text = (role / "meta" / "argument_specs.yml").read_text()
        options = yaml.safe_load(text)["argument_specs"]["main"]["options"]
        found = [key for name in options.keys() & given for key in unknown(options[name], given[name], name)]
        assert found == [], role.name


def test_a_setting_of_the_inventory_is_not_taken_for_what_a_plan_gives() -> None:
    """A site's inventory may say `firstlight_driver: keep`; under the same name the plan gives packages where a driver is to come."""
    given = {f"firstlight_{name}" for name in DriverWork.model_fields} & {
        f"firstlight_{name}" for name in Settings.model_fields
    }
    assert len(given) > 3
    for path in [*PLAYBOOKS.glob("*.yml"), *PLAYBOOKS.glob("roles/*/*/*.yml")]:
        text = path.read_text()
        assert [name for name in given if re.search(rf"\b{name} is (not )?defined", text)] == [], path
        options = yaml.safe_load(text)["argument_specs"]["main"]["options"] if path.name == "argument_specs.yml" else {}
        assert {options[name]["type"] for name in given & set(options)} <= {"raw", "bool"}, path


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({"firstlight_again": "./firstlight provision"}, "./firstlight provision --reboot"),
        ({}, "set nvidia_driver_reboot: true"),
    ],
)
def test_the_option_that_allows_a_restart_is_only_named_for_a_run_of_firstlight(
    given: dict[str, str], asked: str
) -> None:
    """A site of one's own has a plan, too, and plays it by ansible-playbook, which has no such option."""
    role = PLAYBOOKS / "roles/nvidia_driver"
    again = yaml.safe_load((role / "defaults/main.yml").read_text())["nvidia_driver_again"]
    asks = next(task for task in yaml.safe_load((role / "tasks/40_run.yml").read_text()) if "vars" in task)
    known = {"firstlight_driver": {"version": "580.95.05"}, **given}
    known["nvidia_driver_again"] = Template(again).render(known)
    assert Template(asks["vars"]["nvidia_driver_allow"]).render(known) == asked


def test_every_variable_of_the_inventory_is_on_the_reference_page() -> None:
    used = {name for path in TASK_FILES for name in re.findall(r"\bfirstlight_[a-z_]+\b", path.read_text())}
    used |= {
        name
        for role in ROLES
        for name in re.findall(r"\bfirstlight_[a-z_]+\b", (role / "defaults" / "main.yml").read_text())
    }
    page = (PLAYBOOKS.parent / "docs" / "reference" / "playbooks.md").read_text()
    assert {name for name in used - set(MODULES) if f"`{name}`" not in page} == set()
