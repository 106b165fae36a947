"""Connections as OpenSSH resolves them: both SSH stacks get the same."""

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import InventoryError
from provision.core.models.inventory import Connection
from provision.fleet.inventory.connections import connection_of
from provision.fleet.inventory.ssh_config import parse, parse_jump
from provision.fleet.ssh import ansible_variables
from provision.fleet.ssh.openssh import unattended_options


def connection(
    folder: Path, configuration: str = "", *, name: str = "one", args: str = "", **variables: Any
) -> Connection:
    """Return the connection of a host with this ssh configuration and without that of the test's machine."""
    (folder / "config").write_text(configuration)
    arguments = f"-F {folder / 'config'} {args}"
    return connection_of(name, {"ansible_ssh_common_args": arguments} | variables, folder)


def options_of_openssh(of: Connection) -> dict[str, list[str]]:
    """Return OpenSSH's own options for the arguments that the product passes on."""
    command = of.ssh_words(*unattended_options(of))
    answer = subprocess.run(
        [command[0], "-G", *command[1:]], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return parse(answer.stdout)


def test_a_host_without_options_has_the_defaults(tmp_path: Path) -> None:
    found = connection(tmp_path, ansible_host="192.0.2.7", ansible_port=2222, ansible_user="ops")
    assert (found.address, found.port, found.user, found.connect_timeout_s) == ("192.0.2.7", 2222, "ops", 10.0)
    assert not found.accept_new_host_keys
    options = options_of_openssh(found)
    assert (options["hostname"], options["port"], options["user"]) == (["192.0.2.7"], ["2222"], ["ops"])
    assert options["stricthostkeychecking"] == ["true"]


def test_the_configuration_is_resolved_once(tmp_path: Path) -> None:
    found = connection(
        tmp_path,
        "Host one\n  HostName 192.0.2.9\n  User root\n  Port 2200\n  HostKeyAlias first\n  Ciphers aes256-ctr\n"
        '  IdentityFile "/keys/of %h/id"\n  UserKnownHostsFile /known/a "/known/b b"\n  GlobalKnownHostsFile none\n'
        "  RemoteCommand ls\n  ForwardAgent yes\n  LocalForward 9999 localhost:1\n  ControlMaster auto\n",
    )
    assert found.identity_files == ("/keys/of 192.0.2.9/id",)
    assert found.known_hosts_files == ("/known/a", "/known/b b")
    assert found.algorithms["ciphers"] == ("aes256-ctr",)
    options = options_of_openssh(found)
    assert options["identityfile"] == ["/keys/of %h/id"], "OpenSSH expands it"
    assert options["userknownhostsfile"] == ["/known/a /known/b b"]
    assert (options["hostkeyalias"], options["ciphers"]) == (["first"], ["aes256-ctr"])
    # Options for a user's own logins are not used in a run.
    assert options["forwardagent"] == ["no"]
    assert "localforward" not in options
    assert options["controlmaster"] == ["false"]
    assert "remotecommand" not in options


def test_the_inventory_overrides_the_configuration(tmp_path: Path) -> None:
    found = connection(tmp_path, "Host *\n  User other\n  Port 1\n", ansible_user="mine", ansible_port=2)
    assert (found.user, found.port) == ("mine", 2)


def test_jump_hosts_become_one_command(tmp_path: Path) -> None:
    found = connection(
        tmp_path,
        "Host one\n  ProxyJump a@first:2201,second\nHost second\n  HostName 192.0.2.2\n  User b\nHost *\n  UserKnownHostsFile /known\n",
    )
    assert [(jump.address, jump.port, jump.user) for jump in found.proxy_jump] == [
        ("first", 2201, "a"),
        ("192.0.2.2", 22, "b"),
    ]
    assert found.proxy_command is not None
    outer = shlex.split(found.proxy_command)
    assert outer[-1] == "b@second"
    assert outer[outer.index("-W") + 1] == "[one]:22"
    assert outer[outer.index("-J") + 1] == "a@first:2201"
    assert "StrictHostKeyChecking=yes" in outer
    assert options_of_openssh(found)["proxyjump"] == ["a@first:2201,second"]


def test_jump_hosts_in_a_circle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InventoryError, match="more than 8 jump hosts follow one another"):
        connection(tmp_path, "Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n", ansible_host="a")


def test_a_proxy_command_has_the_name_as_typed(tmp_path: Path) -> None:
    found = connection(tmp_path, "Host one\n  HostName 192.0.2.3\n  ProxyCommand nc -X %n %h %p 100%%\n")
    assert found.proxy_command == "nc -X one 192.0.2.3 22 100%"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("host", (None, "host", None)),
        ("me@host:22", ("me", "host", "22")),
        ("ssh://me@host:2200/", ("me", "host", "2200")),
        ("[2001:db8::1]:22", (None, "2001:db8::1", "22")),
        ("me@[::1]", ("me", "::1", None)),
    ],
)
def test_jump_specifications_are_parsed(spec: str, expected: tuple[str | None, str, str | None]) -> None:
    assert parse_jump("one", spec) == expected


def test_accept_new_is_passed_on(tmp_path: Path) -> None:
    found = connection(tmp_path, "Host *\n  StrictHostKeyChecking accept-new\n  UserKnownHostsFile /known\n")
    assert found.accept_new_host_keys
    assert options_of_openssh(found)["stricthostkeychecking"] == ["accept-new"]


REFUSED = {
    "StrictHostKeyChecking no": "host keys are checked, always",
    "StrictHostKeyChecking off": "host keys are checked, always",
    "StrictHostKeyChecking accept-new\n  UserKnownHostsFile /dev/null": "without a file to remember keys",
    "NoHostAuthenticationForLocalhost yes": "host keys are checked, always",
    "PKCS11Provider /usr/lib/token.so": "PKCS#11",
    "PubkeyAuthentication no": "by key or password only",
    "KnownHostsCommand /bin/known %H": "cannot ask a command",
    "RevokedHostKeys /revoked": "key revocation list",
    "ProxyUseFdpass yes": "file descriptor",
    "BindInterface eth0": "to an interface",
    "NoSuchOption yes": "OpenSSH refuses",
}


@pytest.mark.parametrize("line", REFUSED)
def test_an_option_that_one_stack_lacks_is_refused_by_name(tmp_path: Path, line: str) -> None:
    with pytest.raises(InventoryError) as caught:
        connection(tmp_path, f"Host *\n  {line}\n")
    assert "host one" in caught.value.text
    assert REFUSED[line] in caught.value.text
    assert caught.value.hint


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"ansible_host_key_checking": False}, "ansible_host_key_checking is off"),
        ({"ansible_port": "none"}, "Bad port 'none'"),
        ({"ansible_ssh_private_key_file": "/nowhere/id"}, "there is no file /nowhere/id"),
        ({"ansible_ssh_extra_args": "-o 'User=a"}, "ansible_ssh_extra_args: No closing quotation"),
        ({"ansible_ssh_extra_args": "other-host"}, "other-host"),
        ({"ansible_host": "-oProxyCommand=evil"}, "is no address"),
        ({"ansible_timeout": "soon"}, "OpenSSH refuses its arguments"),
        ({"ansible_become": "perhaps"}, "ansible_become: 'perhaps' is neither yes nor no"),
    ],
)
def test_wrong_variables_are_named(tmp_path: Path, variables: dict[str, Any], text: str) -> None:
    with pytest.raises(InventoryError) as caught:
        connection(tmp_path, **variables)
    assert caught.value.text.startswith("host one")
    assert text in caught.value.text


def key_of(folder: Path, key: str) -> str:
    """Return the key that the product offers to a host whose inventory lies in `folder`."""
    return connection(folder, args="-o IdentitiesOnly=yes", ansible_ssh_private_key_file=key).identity_files[0]


def test_a_relative_key_starts_at_the_working_folder_as_in_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = tmp_path / "inventory"
    for folder in (tmp_path, inventory):
        (folder / "keys").mkdir(parents=True)
        (folder / "keys/id").touch()
    (inventory / "keys/other").touch()
    (tmp_path / "program").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > seen\nexit 255\n')
    (tmp_path / "program").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    # Ansible hands the path to ssh, which it starts in the working folder.
    ansible = [sys.executable, "-m", "ansible", "adhoc", "all", "-i", "one,", "-m", "raw", "-a", "true"]
    subprocess.run(
        [*ansible, "-e", f"ansible_ssh_private_key_file=keys/id ansible_ssh_executable={tmp_path / 'program'}"],
        check=False,
        capture_output=True,
    )
    assert 'IdentityFile="keys/id"' in (tmp_path / "seen").read_text().splitlines()
    assert key_of(inventory, "keys/id") == str(tmp_path / "keys/id")
    # A run that was started elsewhere finds the keys beside the inventory.
    assert key_of(inventory, "keys/other") == str(inventory / "keys/other")
    monkeypatch.chdir("/")
    assert key_of(inventory, "keys/id") == str(inventory / "keys/id")


def test_a_key_that_is_nowhere_is_refused_with_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inventory").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InventoryError) as caught:
        key_of(tmp_path / "inventory", "keys/id")
    assert f"there is no file {tmp_path}/keys/id or {tmp_path}/inventory/keys/id" in caught.value.text


def test_relative_paths_of_ssh_arguments_start_at_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/id").touch()
    found = connection(tmp_path, args="-i keys/id -o UserKnownHostsFile=known")
    assert found.identity_files[0] == str(tmp_path / "keys/id")
    assert found.known_hosts_files[0] == str(tmp_path / "known")
    assert options_of_openssh(found)["identityfile"][0] == "keys/id", "OpenSSH is started there"


def test_an_empty_key_is_none_as_in_ansible(tmp_path: Path) -> None:
    assert key_of(tmp_path, "") == connection(tmp_path).identity_files[0]


def test_ansible_gets_the_same_options(tmp_path: Path) -> None:
    found = connection(
        tmp_path, "Host *\n  UserKnownHostsFile '/known hosts'\n", ansible_host="192.0.2.1", ansible_become=True
    )
    variables = ansible_variables(found)
    words = shlex.split(variables["ansible_ssh_common_args"])
    assert words == [*unattended_options(found), *found.openssh_options]
    assert variables["ansible_host_key_checking"] is True
    assert variables["ansible_become"] is True


def test_a_password_is_in_memory_only(tmp_path: Path) -> None:
    found = connection(tmp_path, ansible_password="hush-hush")
    assert found.password is not None
    assert "hush-hush" not in found.model_dump_json() + repr(found) + str(ansible_variables(found))
