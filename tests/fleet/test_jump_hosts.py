"""The connection to a host: its key, jump hosts, ssh configurations, and the errors when it fails."""

import base64
import os
import socket
import subprocess
from pathlib import Path

import pytest

from provision.core.errors import HostKeyError, TransportError
from provision.fleet.ssh import open_session
from provision.fleet.ssh.host_keys import fingerprint
from tests.fleet.hosts import SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.inventories import hosts_of, inventory_of
from tests.ssh.files import bytes_of, staged


def _configuration(folder: Path, jump: FleetHost, behind: FleetHost, *, known: FleetHost | None = None) -> Path:
    """A user's ssh configuration: an included file names the jump host, a pattern holds for both.

    With `known`, the key of that host alone is known.
    """
    keys = jump.known_hosts
    if known is not None:
        keys = folder / "known"
        keys.write_text("".join(line for line in jump.known_hosts.open() if line.startswith(f"{known.address} ")))
    included = folder / "included"
    included.write_text(f"Host the-jump\n  HostName {jump.address}\n")
    configuration = folder / "config"
    configuration.write_text(
        f"Include {included}\nHost behind\n  HostName {behind.address}\n  ProxyJump the-jump\n"
        f"Host *\n  User root\n  IdentityFile {jump.key_file}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {keys}\n  GlobalKnownHostsFile none\n"
    )
    return configuration


def type_with_yes(command: str, folder: Path) -> None:
    """Type a command, and answer its question with yes."""
    yes = folder / "yes"
    yes.write_text("#!/bin/sh\necho yes\n")
    yes.chmod(0o755)
    asked = {**os.environ, "SSH_ASKPASS": str(yes), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["sh", "-c", command], env=asked, check=True, stdin=subprocess.DEVNULL)


def test_an_unknown_host_is_refused_with_its_fingerprint(pair: list[FleetHost], tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    entry = pair[0].inventory_entry()
    entry["ansible_ssh_common_args"] = entry["ansible_ssh_common_args"].replace(str(pair[0].known_hosts), str(empty))
    path = inventory_of(tmp_path, {"host1": entry})
    with pytest.raises(HostKeyError) as caught:
        open_session(hosts_of(path)[0]).run("true")
    key = pair[0].sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert f"host host1 ({pair[0].address}) is not known: it shows ssh-ed25519 {key}" in caught.value.text
    # The command of the hint makes it known.
    type_with_yes((caught.value.hint or "").split("then: ")[1], tmp_path)
    assert open_session(hosts_of(path)[0]).run("true").rc == 0


def test_accept_new_trusts_once_and_remembers(pair: list[FleetHost], tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    entry = pair[0].inventory_entry()
    arguments = entry["ansible_ssh_common_args"].replace(str(pair[0].known_hosts), str(file))
    entry["ansible_ssh_common_args"] = arguments + " -o StrictHostKeyChecking=accept-new -o HashKnownHosts=yes"
    [host] = hosts_of(inventory_of(tmp_path, {"host1": entry}))
    for _ in range(2):
        opened = open_session(host)
        assert opened.run("true").rc == 0
        opened.close()
    assert len(file.read_text().splitlines()) == 1
    assert pair[0].address not in file.read_text()
    # OpenSSH reads what was written there as its own.
    assert subprocess.run([*host.connection.ssh_words(), "true"], check=False).returncode == 0


def test_a_changed_host_key_is_reported_with_the_next_command(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot()
    path = host.inventory(tmp_path)
    before = host.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert open_session(hosts_of(path)[0]).run("true").rc == 0
    host.sh("rm /etc/ssh/ssh_host_*; ssh-keygen -A; systemctl restart ssh")  # as after a new installation
    with pytest.raises(HostKeyError, match=f"the key of host {host.name} .* has CHANGED") as caught:
        open_session(hosts_of(path)[0]).run("true")
    line = host.known_hosts.read_text().splitlines().index(f"{host.address} ssh-ed25519 {before}") + 1
    assert f"{fingerprint(base64.b64decode(before))} in {host.known_hosts}, line {line}" in caught.value.text
    assert f"ssh-keygen -R {host.address} -f {host.known_hosts}" in (caught.value.hint or "")
    with pytest.raises(HostKeyError):
        open_session(hosts_of(path)[0]).send([staged(tmp_path, "a.whl", b"x")], "/var/tmp/in")
    host.remove()


def test_a_jump_host_carries_both_stacks(pair: list[FleetHost], tmp_path: Path) -> None:
    behind, jump = pair[1], pair[0]
    # Only its jump host reaches the second host.
    gateway = behind.sh("ip route show default").split()[2]
    behind.sh(f"ip route add blackhole {gateway}/32")
    configuration = _configuration(tmp_path, jump, behind)
    entry = {"ansible_host": "behind", "ansible_ssh_common_args": f"-F {configuration}"}
    try:
        [host] = hosts_of(inventory_of(tmp_path, {"host2": entry}))
        assert [step.address for step in host.connection.proxy_jump] == [jump.address]
        opened = open_session(host)
        assert opened.run("hostname").stdout == f"{behind.name}\n"
        file = staged(tmp_path, "jumped.whl", bytes_of(2_000_000, 5))
        assert opened.send([file], "/var/tmp/firstlight-jumped").sent == ("jumped.whl",)
        opened.close()
        direct = {
            "ansible_host": behind.address,
            "ansible_ssh_common_args": f"-F {configuration} -o ProxyJump=none -o ConnectTimeout=2",
        }
        with pytest.raises(TransportError):
            open_session(hosts_of(inventory_of(tmp_path, {"host2": direct}))[0]).run("true")
    finally:
        behind.sh(f"ip route del blackhole {gateway}/32")


def test_a_jump_host_with_an_unknown_key_is_refused(pair: list[FleetHost], tmp_path: Path) -> None:
    configuration = _configuration(tmp_path, pair[0], pair[1], known=pair[1])
    entry = {"ansible_host": "behind", "ansible_ssh_common_args": f"-F {configuration}"}
    with pytest.raises(HostKeyError, match=r"host2 .* cannot be reached through .*: .*Host key verification failed"):
        open_session(hosts_of(inventory_of(tmp_path, {"host2": entry}))[0]).run("true")


def test_the_hint_for_an_unknown_host_behind_a_jump_host_makes_it_known(pair: list[FleetHost], tmp_path: Path) -> None:
    configuration = _configuration(tmp_path, pair[0], pair[1], known=pair[0])
    entry = {"ansible_host": "behind", "ansible_ssh_common_args": f"-F {configuration}"}
    [host] = hosts_of(inventory_of(tmp_path, {"host2": entry}))
    with pytest.raises(HostKeyError, match=rf"host host2 \({pair[1].address}\) is not known") as caught:
        open_session(host).run("true")
    type_with_yes((caught.value.hint or "").split("then: ")[1], tmp_path)
    assert open_session(host).run("hostname").stdout == f"{pair[1].name}\n"


def test_both_stacks_reach_the_same_user(pair: list[FleetHost], tmp_path: Path) -> None:
    [host] = hosts_of(pair[0].inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD))
    over_openssh = subprocess.run(
        [*host.connection.ssh_words(), "id -un; hostname"], capture_output=True, text=True, check=True
    )
    assert over_openssh.stdout == f"{SUDO_WITHOUT_PASSWORD}\n{pair[0].name}\n"
    assert open_session(host).run("id -un; hostname").stdout == over_openssh.stdout


@pytest.mark.parametrize(
    ("address", "port", "why"),
    [
        ("127.0.0.1", "closed", "connection refused: nothing listens on that port"),
        ("192.0.2.254", "22", r"no answer in time|no route to the host|the network is unreachable"),
        ("no-such-host.invalid", "22", "the name does not resolve"),
    ],
)
def test_an_unreachable_host_has_a_reason(tmp_path: Path, address: str, port: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    number = closed if port == "closed" else int(port)
    entry = {"ansible_host": address, "ansible_port": number, "ansible_ssh_common_args": "-F none -o ConnectTimeout=1"}
    with pytest.raises(TransportError, match=rf"host gone \({address}:{number}\) cannot be reached: ({why})"):
        open_session(hosts_of(inventory_of(tmp_path, {"gone": entry}))[0]).run("true")
