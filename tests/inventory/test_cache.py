"""The second read returns the first one's result as long as nothing that affects it has changed."""

import stat
from pathlib import Path

import pytest

from provision.core.errors import InventoryError
from provision.fleet.inventory import cache, load
from tests.inventory.conftest import Make

pytestmark = pytest.mark.slow

HOSTS = "all: {hosts: {one: {ansible_connection: local, firstlight_port: 8001}}}\n"


class Asked(Exception):  # noqa: N818  # a signal
    """Ansible was called."""


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every later call of Ansible an error, so that only the cache may answer."""
    import importlib

    def asked(*_: object) -> None:
        raise Asked

    monkeypatch.setattr(importlib.import_module("provision.fleet.inventory.load"), "_read", asked)


def test_an_unchanged_inventory_is_not_read_again(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(HOSTS)
    first = load(path)
    forbid(monkeypatch)
    assert load(path) == first
    assert load(path, overrides={"port": 9}).hosts[0].settings.port == 9


@pytest.mark.parametrize("place", ["site", "."])
def test_every_file_with_an_effect_is_watched(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = make(HOSTS)
    monkeypatch.chdir(tmp_path)  # Ansible reads variables of the working folder too
    load(path)
    (tmp_path / place / "group_vars").mkdir()
    file = tmp_path / place / "group_vars/all.yml"
    file.write_text("firstlight_dtype: float16\n")
    assert load(path).hosts[0].settings.dtype == "float16"
    forbid(monkeypatch)
    file.write_text("firstlight_dtype: auto\n")
    with pytest.raises(Asked):
        load(path)


def test_a_wrong_value_is_named_once_where_the_inventory_is_in_the_working_folder(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(
        make(HOSTS.replace("8001", "8001, firstlight_dtype: int3"), group_vars__all_yml="firstlight_dtype: int3\n")
    )
    with pytest.raises(InventoryError, match=r"\(hosts\.yml:1, group_vars/all\.yml:1\)"):
        load(Path("hosts.yml"))


def test_variables_behind_a_link_to_a_folder_are_watched(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(HOSTS)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared/all.yml").write_text("firstlight_dtype: auto\n")
    (path / "group_vars").symlink_to("../shared")
    assert load(path).hosts[0].settings.dtype == "auto"
    (tmp_path / "shared/all.yml").write_text("firstlight_dtype: float16\n")
    assert load(path).hosts[0].settings.dtype == "float16"


def test_only_its_owner_can_read_an_entry(make: Make) -> None:
    load(make(HOSTS))
    assert [stat.S_IMODE(file.stat().st_mode) for file in cache.folder().iterdir()] == [0o600]


def test_another_limit_is_another_entry(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(HOSTS)
    load(path)
    forbid(monkeypatch)
    with pytest.raises(Asked):
        load(path, limit="one")


@pytest.mark.parametrize("damage", ["", "{", "[{}]", '{"a": 1}', "[1, 2]", "null"])
def test_a_damaged_entry_is_a_miss(make: Make, tmp_path: Path, damage: str) -> None:
    path = make(HOSTS)
    first = load(path)
    [entry] = (tmp_path / "cache").glob("*.json")
    entry.write_text(damage)
    assert load(path) == first


@pytest.mark.parametrize(
    "text",
    [
        "firstlight_port: \"{{ lookup('env', 'SOME_PORT') | default(8001, true) }}\"\n",
        "ansible_become_password: hush\n",
        "ansible_password: hush\n",
        "{ansible_connection: local, ansible_ssh_pass: hush}\n",
        "ansible_ssh_common_args: -o ProxyCommand='sshpass -p hush ssh -W %h:%p bastion'\n",
    ],
)
def test_passwords_and_unpredictable_results_are_not_cached(make: Make, tmp_path: Path, text: str) -> None:
    load(make("all: {hosts: {one: {}}}\n", group_vars__all_yml=text))
    assert not list((tmp_path / "cache").glob("*"))


def test_the_ssh_configuration_is_read_each_time(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(f"Include {tmp_path}/more-*\n")
    path = make(f"all: {{hosts: {{one: {{ansible_ssh_common_args: '-F {tmp_path}/config'}}}}}}\n")
    assert load(path).hosts[0].connection.port == 22
    forbid(monkeypatch)
    (tmp_path / "more-1").write_text("Host one\n  Port 2201\n")
    assert load(path).hosts[0].connection.port == 2201
    (tmp_path / "more-1").write_text("Match exec false\n  Port 2202\n")
    assert load(path).hosts[0].connection.port == 22


def test_a_cache_that_cannot_be_written_causes_no_error(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache, "folder", lambda: tmp_path / "file/cache")
    assert load(make(HOSTS)).hosts[0].name == "one"


def test_the_number_of_entries_is_limited(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    for port in range(8001, 8005):
        load(make(HOSTS.replace("8001", str(port))))
    assert len(list((tmp_path / "cache").glob("*.json"))) == 2


def test_errors_are_not_cached(make: Make, tmp_path: Path) -> None:
    path = make("all: {hosts: {one: {ansible_connection: docker}}}\n")
    for _ in range(2):
        with pytest.raises(InventoryError, match="docker"):
            load(path)
    assert not list((tmp_path / "cache").glob("*"))


def test_an_unknown_account_can_read_an_inventory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    path = make(HOSTS)
    first = load(path)
    forbid(monkeypatch)
    assert load(path) == first
