"""Logins with keys, agents, certificates and passwords from a vault, and the errors of refused logins."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provision.core.install_paths import SERVICE_USER
from provision.core.models.inventory import Host
from provision.core.run_folder import RunFolder
from provision.fleet.ssh import AuthenticationError, open_session
from provision.phases.install.host_results import install
from provision.phases.install.hosts_file import Target
from tests.fleet.hosts import SUDO_WITH_PASSWORD, FleetHost
from tests.fleet.inventories import hosts_of, inventory_of
from tests.ssh.files import staged


def only_host(folder: Path, entry: dict[str, Any]) -> Host:
    [host] = hosts_of(inventory_of(folder, {"host1": entry}))
    return host


def without_key(host: FleetHost, user: str) -> dict[str, Any]:
    """Return Ansible's variables for a login that uses no key file."""
    entry = host.inventory_entry(user)
    del entry["ansible_ssh_private_key_file"]
    entry["ansible_ssh_common_args"] += " -o IdentityFile=none"
    return entry


def reached_as(host: Host, folder: Path) -> list[str]:
    """Return the user of each of the three kinds of connection: a session, a bulk transfer, Ansible."""
    session = open_session(host)
    name = session.run("id -un").stdout.strip()
    incoming = f"/var/tmp/firstlight-login-{name}"
    session.send([staged(folder, "sent", b"12345")], incoming)
    owner = session.run(f"stat -c %U {incoming}/sent").stdout.strip()
    run = RunFolder.create(folder / "logs", command="test")
    place = {
        "firstlight_prefix": f"/opt/login-{name}",
        "firstlight_incoming": incoming,
        "firstlight_owner": SERVICE_USER if host.connection.become else name,
        "firstlight_root": host.connection.become,
        "firstlight_system_packages": [],
    }
    result = install(run, [Target(host, place)], playbook="prepare")[host.name]
    session.close()
    return [name, owner, result.status]


def test_a_refused_login_lists_the_tried_methods(pair: list[FleetHost], tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    entry = pair[0].inventory_entry() | {"ansible_ssh_private_key_file": str(other)}
    with pytest.raises(AuthenticationError, match=r"host1 \(.*:22\) refused to log in root; tried: .*/other") as caught:
        open_session(only_host(tmp_path, entry)).run("true")
    assert "the host takes publickey" in caught.value.text


def test_a_locked_key_is_named(pair: list[FleetHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "words words", "-f", str(locked)], check=True)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    entry = pair[0].inventory_entry() | {"ansible_ssh_private_key_file": str(locked)}
    with pytest.raises(AuthenticationError, match="locked has a passphrase: add it to your agent with ssh-add"):
        open_session(only_host(tmp_path, entry)).run("true")


def test_keys_of_an_agent_are_used(pair: list[FleetHost], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = subprocess.run(
        ["ssh-agent", "-s", "-a", str(tmp_path / "agent")], capture_output=True, text=True, check=True
    )
    pid = int(agent.stdout.split("SSH_AGENT_PID=")[1].split(";")[0])
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        subprocess.run(["ssh-add", "-q", str(pair[0].key_file)], check=True)
        entry = without_key(pair[0], "root")
        entry["ansible_ssh_common_args"] = entry["ansible_ssh_common_args"].replace("-o IdentitiesOnly=yes", "")
        assert open_session(only_host(tmp_path, entry)).run("id -un").stdout == "root\n"
    finally:
        os.kill(pid, 15)


@pytest.fixture
def password_logins(pair: list[FleetHost]) -> Iterator[FleetHost]:
    """A host that accepts passwords."""
    rule = "/etc/ssh/sshd_config.d/logins.conf"
    pair[0].sh(f"echo 'PasswordAuthentication yes' > {rule}; systemctl reload ssh")
    yield pair[0]
    pair[0].sh(f"rm {rule}; systemctl reload ssh")


def test_passwords_from_a_vault_work_for_all_connections(
    password_logins: FleetHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "vault-key"
    key.write_text("words\n", encoding="ascii")
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(key))
    secrets = tmp_path / "host_vars" / "host1.yml"
    secrets.parent.mkdir()
    secret = password_logins.admin_password
    secrets.write_text(json.dumps({"ansible_password": secret, "ansible_become_password": secret}), encoding="ascii")
    subprocess.run(
        [Path(sys.executable).with_name("ansible-vault"), "encrypt", secrets], check=True, capture_output=True
    )
    entry = without_key(password_logins, SUDO_WITH_PASSWORD) | {"ansible_become": True}
    assert reached_as(only_host(tmp_path, entry), tmp_path) == [SUDO_WITH_PASSWORD, SUDO_WITH_PASSWORD, "ok"]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "logs").rglob("*") if path.is_file())
    assert secret.encode() not in kept


def test_a_certificate_works_for_all_connections(pair: list[FleetHost], tmp_path: Path) -> None:
    authority, key = tmp_path / "authority", tmp_path / "key"
    for path in (authority, key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "root", "-V", "+1h", f"{key}.pub"], check=True
    )
    rule = "/etc/ssh/sshd_config.d/logins.conf"
    public = authority.with_suffix(".pub").read_text(encoding="ascii").strip()
    pair[0].sh(
        f"echo '{public}' > /etc/ssh/authority; echo 'TrustedUserCAKeys /etc/ssh/authority' > {rule}; systemctl reload ssh"
    )
    try:
        entry = pair[0].inventory_entry() | {"ansible_ssh_private_key_file": str(key)}
        assert reached_as(only_host(tmp_path, entry), tmp_path) == ["root", "root", "ok"]
    finally:
        pair[0].sh(f"rm {rule} /etc/ssh/authority; systemctl reload ssh")
