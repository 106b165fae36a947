"""The forms of public inventories: one TOML file each in tests/cases/inventories, read as `ansible-inventory --list` reads it.

about       whose inventories have the form, and what is special in it
source      what -i names, from the folder of the form; the folder itself unless given
files       texts by path
links       links by path, with their targets
executable  files that are programs
order       the order in which the files name the hosts, if it is not that of a walk through the listed groups; Ansible has no order
            of its own, as it is another one in each process
expect      variables by host; those made by templates or from vaults, which the list does not show
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.core.models.inventory import Inventory
from provision.fleet.inventory import load
from provision.fleet.inventory.ansible_reader import CONNECTION, OURS
from tests.inventory import both_readers
from tests.inventory.conftest import Make

ROOT = Path(__file__).parents[2]
FORMS = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "tests/cases/inventories").glob("*.toml"))
}
VAULT_PASSWORD = "form-password"  # of the values in vaulted.toml


def write(form: dict[str, Any], folder: Path) -> Path:
    """Write the files of a form and return its source."""
    for name, text in form["files"].items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode())
        file.chmod(0o755 if name in form.get("executable", ()) else 0o644)
    for name, target in form.get("links", {}).items():
        (folder / name).symlink_to(target)
    return folder / str(form.get("source", ""))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("forms")
    return {name: write(form, folder / name) for name, form in FORMS.items()}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, sources: dict[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return what Ansible lists and what the product reads, by form."""
    scratch = tmp_path_factory.mktemp("scratch")
    (scratch / "password").write_text(VAULT_PASSWORD)
    settings = {"ANSIBLE_VAULT_PASSWORD_FILE": str(scratch / "password"), "ANSIBLE_LOCAL_TEMP": str(scratch / "tmp")}
    command = [sys.executable, "-m", both_readers.__name__]
    given = json.dumps({name: str(source) for name, source in sources.items()})
    environment = os.environ | settings
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, cwd=ROOT, env=environment, text=True, check=True
    )
    answers: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return answers


def hosts_of(listed: dict[str, Any], group: str, seen: set[str]) -> Iterator[str]:
    """Yield the hosts of a group and of its children, each group once."""
    seen.add(group)
    yield from listed.get(group, {}).get("hosts", ())
    for child in listed.get(group, {}).get("children", ()):
        if child not in seen:
            yield from hosts_of(listed, child, seen)


def variables(listed: dict[str, Any], host: str) -> dict[str, Any]:
    """Return the variables of a host that the product reads, without templates and vaulted values."""
    found = {
        name: value["__ansible_unsafe"] if isinstance(value, dict) and "__ansible_unsafe" in value else value
        for name, value in listed["_meta"]["hostvars"].get(host, {}).items()
        if name.startswith(OURS) or name in CONNECTION
    }
    return {name: value for name, value in found.items() if "{{" not in str(value)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_a_public_form_is_read_as_by_ansible(
    monkeypatch: pytest.MonkeyPatch,
    sources: dict[str, Path],
    answers: dict[str, list[dict[str, Any]]],
    name: str,
) -> None:
    listed, read = answers[name]
    monkeypatch.setattr(sys.modules[load.__module__], "_read", lambda *_: read)
    inventory: Inventory = load(sources[name])
    walk = list(dict.fromkeys(hosts_of(listed, "all", set())))
    assert [host.name for host in inventory.hosts] == FORMS[name].get("order", walk)
    assert {host.name for host in inventory.hosts} == set(walk)
    groups = [group for group in listed if group not in {"all", "_meta"}]
    for host in inventory.hosts:
        assert set(host.groups) == {group for group in groups if host.name in hosts_of(listed, group, set())}
    for found in read["hosts"]:
        expected = variables(listed, found["name"]) | FORMS[name].get("expect", {}).get(found["name"], {})
        assert {key: found["variables"].get(key) for key in expected} == expected


def test_a_host_of_the_page_on_fleets_still_serves_when_it_is_a_gateway_too(make: Make) -> None:
    page = (ROOT / "docs" / "guides" / "fleet.md").read_text(encoding="utf-8")
    hosts = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    hosts["all"].setdefault("children", {})["gateway"] = {"hosts": {"gpu-1": {}}}
    found = load(make(yaml.safe_dump(hosts))).hosts
    assert {host.name: (host.is_gateway, host.is_provisioned) for host in found} == {
        "gpu-1": (True, True),
        "gpu-2": (False, True),
    }


def test_a_group_above_gateway_or_monitoring_makes_no_gpu_host(make: Make) -> None:
    inventory = make(
        """
all:
  vars: {ansible_connection: local}
  hosts: {gate: }
  children:
    europe:
      children:
        berlin:
          children:
            gateway: {hosts: {gate: , gpu-2: }}
            monitoring: {hosts: {gate: , watch: }}
            serving: {hosts: {gpu-1: , gpu-2: }}
"""
    )
    above = {"berlin", "europe", "serving"}
    assert {host.name: (set(host.groups), host.is_provisioned) for host in load(inventory).hosts} == {
        "gate": ({"gateway", "monitoring"}, False),
        "gpu-1": (above, True),
        "gpu-2": ({"gateway", *above}, True),
        "watch": ({"monitoring"}, False),
    }
