"""Sessions against real hosts: what they do, and what a person is told when they cannot."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provision.errors import HostKeyError, InventoryError, RemoteCommandError, StageError, TransportError
from provision.inventory import load
from provision.models.settings import Host
from provision.models.staged import StagedFile
from provision.remote import Session, Task, fan_out, open_session, ssh_command
from provision.remote.knownhosts import fingerprint
from tests.fleet.hosts import NO_SUDO, SUDO_WITH_PASSWORD, SUDO_WITHOUT_PASSWORD, Fleet, FleetHost, write_inventory

pytestmark = pytest.mark.fleet


def _hosts(path: Path, **overrides: Any) -> list[Host]:
    return list(load(path, overrides=overrides).hosts)


@pytest.fixture
def session(pair: list[FleetHost], tmp_path: Path) -> Iterator[Session]:
    opened = open_session(_hosts(pair[0].inventory(tmp_path))[0])
    yield opened
    opened.close()


def staged(folder: Path, name: str, content: bytes) -> StagedFile:
    path = folder / f"of-{name}"
    path.write_bytes(content)
    return StagedFile(
        name=name, path=str(path), sha256=hashlib.sha256(content).hexdigest(), size=len(content), kind="wheel"
    )


def bytes_of(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def test_a_booted_host_is_a_real_one(pair: list[FleetHost], session: Session) -> None:
    done = session.run("ps -o comm= -p 1; id -un; hostname")
    assert done.stdout.split() == ["systemd", "root", pair[0].name]
    assert pair[0].sh("command -v pip3 gcc g++ uv || true") == ""


def test_a_command_keeps_its_streams_and_its_status_apart(session: Session) -> None:
    done = session.run("cat; echo oops >&2; exit 7", stdin="a 'quoted' \"text\" $HOME\n")
    assert (done.rc, done.stdout, done.stderr) == (7, "a 'quoted' \"text\" $HOME\n", "oops\n")


def test_long_input_and_long_output_pass_each_other(session: Session) -> None:
    text = "0123456789abcdef" * 200_000
    assert session.run("cat", stdin=text).stdout == text


def test_a_command_without_end_is_ended_on_the_host_too(session: Session) -> None:
    with pytest.raises(RemoteCommandError, match=r"host\d+ did not end within 1 s: sleep 987"):
        session.run("sleep 987", timeout_s=1)
    deadline = time.monotonic() + 30
    while session.run("pgrep -f '^sleep 987' || true").stdout.strip() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert session.run("pgrep -f '^sleep 987' || true").stdout == ""


def test_files_are_written_whole_and_read_back(session: Session) -> None:
    content = bytes(range(256)) * 1000
    session.write("/root/some file", content, mode=0o640)
    assert session.read("/root/some file") == content
    assert session.run("stat -c '%a' '/root/some file'; ls -A /root | grep -c firstlight || true").stdout.split() == [
        "640",
        "0",
    ]
    with pytest.raises(FileNotFoundError):
        session.read("/root/another file")


def test_root_with_a_password_never_shows_it(pair: list[FleetHost], tmp_path: Path) -> None:
    path = pair[0].inventory(tmp_path, user=SUDO_WITH_PASSWORD)
    [host] = _hosts(path, become_password=pair[0].admin_password)
    opened = open_session(host)
    # Twice: the second time sudo asks for nothing, and the password line must not reach the command.
    for _ in range(2):
        done = opened.run("id -u; cat; ps -eo args", stdin="for the command", root=True)
        assert done.stdout.startswith("0\nfor the command")
        assert pair[0].admin_password not in done.stdout
    opened.write("/root/by-admin", b"x", root=True)
    assert opened.read("/root/by-admin", root=True) == b"x"
    assert pair[0].admin_password not in host.model_dump_json() + repr(host)
    opened.close()


def test_a_wrong_sudo_password_names_the_host(pair: list[FleetHost], tmp_path: Path) -> None:
    opened = open_session(_hosts(pair[0].inventory(tmp_path, user=SUDO_WITH_PASSWORD), become_password="wrong")[0])
    with pytest.raises(RemoteCommandError, match=f"sudo on host {pair[0].name} refused the password") as caught:
        opened.run("id -u", stdin="first line\nsecond line\n", root=True)
    assert "--ask-become-pass" in (caught.value.hint or "")
    assert "wrong" not in caught.value.render().replace("went wrong", "")
    opened.close()


@pytest.mark.parametrize("user", [SUDO_WITH_PASSWORD, NO_SUDO])
def test_no_sudo_password_at_all(pair: list[FleetHost], tmp_path: Path, user: str) -> None:
    opened = open_session(_hosts(pair[0].inventory(tmp_path, user=user))[0])
    with pytest.raises(RemoteCommandError, match=f"sudo on host {pair[0].name} wants a password or is not there"):
        opened.run("id -u", root=True)
    opened.close()


def test_sudo_without_a_password(pair: list[FleetHost], tmp_path: Path) -> None:
    for overrides in ({}, {"become_password": "not needed"}):
        opened = open_session(_hosts(pair[0].inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD), **overrides)[0])
        assert opened.run("id -u; cat", stdin="mine", root=True).stdout == "0\nmine"
        opened.close()


def test_send_brings_what_is_missing_and_nothing_twice(session: Session, tmp_path: Path) -> None:
    big = staged(tmp_path, "big-1.0.whl", bytes_of(40_000_000, 1))
    files = [big, *(staged(tmp_path, f"small{number}.whl", bytes_of(1000 * number, number)) for number in range(30))]
    moved: list[int] = []
    folder = "/var/tmp/firstlight-send"
    first = session.send(files, folder, progress=moved.append)
    assert (len(first.sent), first.present, sum(moved)) == (31, (), sum(file.size for file in files))
    again = session.send(files, folder)
    assert (again.sent, again.bytes_sent, len(again.present)) == ((), 0, 31)
    there = session.run(f"cd {folder} && sha256sum *.whl && stat -c %a .").stdout
    assert all(f"{file.sha256}  {file.name}\n" in there for file in files)
    assert there.endswith("700\n")
    # One that changed on the host is no longer the one that was verified.
    session.run(f"echo x >> {folder}/small7.whl")
    assert session.send(files, folder).sent == ("small7.whl",)


def test_send_goes_on_where_it_was_cut_off(pair: list[FleetHost], session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "cut.whl", bytes_of(150_000_000, 2))
    folder = "/var/tmp/firstlight-cut"
    seen = 0

    def cut_in_the_middle(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > file.size // 3:
            # The receiving end dies with its stream half way, as when a host's network goes.
            pair[0].sh("pkill -KILL -x cat", check=False)

    with pytest.raises((TransportError, StageError)):
        session.send([file], folder, progress=cut_in_the_middle)
    report = session.send([file], folder)
    assert report.sent == ("cut.whl",)
    assert report.bytes_resumed > 0
    assert report.bytes_resumed + report.bytes_sent == file.size
    assert file.sha256 in session.run(f"sha256sum {folder}/cut.whl").stdout


def test_a_file_damaged_on_its_way_is_sent_again(session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "damaged.whl", bytes_of(40_000_000, 3))
    folder = "/var/tmp/firstlight-damaged"
    from provision.remote.arrivals import part_name

    session.run(f"mkdir -m 700 {folder}; head -c 1000 /dev/zero > {folder}/{part_name(file)}")
    moved: list[int] = []
    report = session.send([file], folder, progress=moved.append)
    assert report.sent == ("damaged.whl",)
    assert sum(moved) == file.size
    assert file.sha256 in session.run(f"sha256sum {folder}/damaged.whl").stdout


def test_a_source_that_is_not_what_was_recorded_is_refused(session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "wrong.whl", b"x" * 5000).model_copy(update={"sha256": "0" * 64})
    with pytest.raises(StageError, match=r"of-wrong\.whl is damaged: its SHA-256 is [0-9a-f]{64}, recorded is 0{64}"):
        session.send([file], "/var/tmp/firstlight-wrong")
    assert "wrong.whl" not in session.run("ls /var/tmp/firstlight-wrong").stdout


def test_too_little_space_is_found_before_anything_is_sent(
    pair: list[FleetHost], session: Session, tmp_path: Path
) -> None:
    pair[0].sh("mkdir -p /srv/small; mount -t tmpfs -o size=80m tmpfs /srv/small")
    moved: list[int] = []
    try:
        with pytest.raises(StageError, match=r"host\d+ has 0\.1 GB free at /srv/small/in; 0\.0 GB are to come"):
            session.send([staged(tmp_path, "a.whl", bytes_of(40_000_000, 4))], "/srv/small/in", progress=moved.append)
    finally:
        pair[0].sh("umount /srv/small")
    assert moved == []


def test_an_incoming_folder_of_somebody_else_is_not_used(pair: list[FleetHost], tmp_path: Path) -> None:
    pair[0].sh("mkdir -p /var/tmp/firstlight-trap && chmod 777 /var/tmp/firstlight-trap")
    opened = open_session(_hosts(pair[0].inventory(tmp_path, user=NO_SUDO))[0])
    with pytest.raises(StageError, match="belongs to another user"):
        opened.send([staged(tmp_path, "a.whl", b"x")], "/var/tmp/firstlight-trap")
    opened.close()


def test_an_unknown_host_is_refused_with_its_fingerprint(pair: list[FleetHost], tmp_path: Path) -> None:
    empty = tmp_path / "known_hosts"
    entry = pair[0].inventory_entry()
    entry["ansible_ssh_common_args"] = entry["ansible_ssh_common_args"].replace(str(pair[0].known_hosts), str(empty))
    path = _inventory(tmp_path, {"host1": entry})
    with pytest.raises(HostKeyError) as caught:
        open_session(_hosts(path)[0]).run("true")
    key = pair[0].sh("ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert f"host host1 ({pair[0].address}) is not known: it shows ssh-ed25519 {key}" in caught.value.text
    assert f"ssh-keyscan {pair[0].address} >> {empty}" in (caught.value.hint or "")
    # The command of the hint makes it known.
    subprocess.run(["sh", "-c", (caught.value.hint or "").split("then: ")[1]], check=True, capture_output=True)
    assert open_session(_hosts(path)[0]).run("true").rc == 0


def test_accept_new_trusts_once_and_remembers(pair: list[FleetHost], tmp_path: Path) -> None:
    file = tmp_path / "known_hosts"
    entry = pair[0].inventory_entry()
    arguments = entry["ansible_ssh_common_args"].replace(str(pair[0].known_hosts), str(file))
    entry["ansible_ssh_common_args"] = arguments + " -o StrictHostKeyChecking=accept-new -o HashKnownHosts=yes"
    [host] = _hosts(_inventory(tmp_path, {"host1": entry}))
    for _ in range(2):
        opened = open_session(host)
        assert opened.run("true").rc == 0
        opened.close()
    assert len(file.read_text().splitlines()) == 1
    assert pair[0].address not in file.read_text()
    # OpenSSH reads what was written there as its own.
    assert subprocess.run([*ssh_command(host.connection), "true"], check=False).returncode == 0


def test_a_changed_host_key_says_what_changed_and_how_to_go_on(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot()
    path = host.inventory(tmp_path)
    before = host.sh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert open_session(_hosts(path)[0]).run("true").rc == 0
    host.new_host_keys()
    with pytest.raises(HostKeyError, match=f"the key of host {host.name} .* has CHANGED") as caught:
        open_session(_hosts(path)[0]).run("true")
    import base64

    line = host.known_hosts.read_text().splitlines().index(f"{host.address} ssh-ed25519 {before}") + 1
    assert f"{fingerprint(base64.b64decode(before))} in {host.known_hosts}, line {line}" in caught.value.text
    assert f"ssh-keygen -R {host.address} -f {host.known_hosts}" in (caught.value.hint or "")
    with pytest.raises(HostKeyError):
        open_session(_hosts(path)[0]).send([staged(tmp_path, "a.whl", b"x")], "/var/tmp/in")
    host.remove()


def test_a_jump_host_carries_both_stacks(pair: list[FleetHost], tmp_path: Path) -> None:
    behind, jump = pair[1], pair[0]
    # Only its jump host reaches the second host.
    gateway = behind.sh("ip route show default").split()[2]
    behind.sh(f"ip route add blackhole {gateway}/32")
    configuration = _configuration(tmp_path, jump, behind)
    entry = {"ansible_host": "behind", "ansible_ssh_common_args": f"-F {configuration}"}
    try:
        [host] = _hosts(_inventory(tmp_path, {"host2": entry}))
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
            open_session(_hosts(_inventory(tmp_path, {"host2": direct}))[0]).run("true")
    finally:
        behind.sh(f"ip route del blackhole {gateway}/32")


def test_a_jump_host_with_an_unknown_key_is_refused(pair: list[FleetHost], tmp_path: Path) -> None:
    configuration = _configuration(tmp_path, pair[0], pair[1])
    only_second = tmp_path / "known_second"
    only_second.write_text(
        "".join(line for line in pair[0].known_hosts.open() if line.startswith(f"{pair[1].address} "))
    )
    configuration.write_text(configuration.read_text().replace(str(pair[0].known_hosts), str(only_second)))
    entry = {"ansible_host": "behind", "ansible_ssh_common_args": f"-F {configuration}"}
    with pytest.raises(HostKeyError, match=r"host2 .* cannot be reached through .*: .*Host key verification failed"):
        open_session(_hosts(_inventory(tmp_path, {"host2": entry}))[0]).run("true")


def _configuration(folder: Path, jump: FleetHost, behind: FleetHost) -> Path:
    """A user's ssh configuration: an included file names the jump host, a pattern holds for both."""
    included = folder / "included"
    included.write_text(f"Host the-jump\n  HostName {jump.address}\n")
    configuration = folder / "config"
    configuration.write_text(
        f"Include {included}\nHost behind\n  HostName {behind.address}\n  ProxyJump the-jump\n"
        f"Host *\n  User root\n  IdentityFile {jump.key_file}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {jump.known_hosts}\n  GlobalKnownHostsFile none\n"
    )
    return configuration


def test_an_ssh_configuration_with_includes_is_followed_and_watched(pair: list[FleetHost], tmp_path: Path) -> None:
    configuration = _configuration(tmp_path, pair[0], pair[1])
    entry = {"ansible_host": "the-jump", "ansible_ssh_common_args": f"-F {configuration}"}
    path = _inventory(tmp_path / "inventory", {"host1": entry})
    assert open_session(_hosts(path)[0]).run("hostname").stdout == f"{pair[0].name}\n"
    # What is included has changed: the inventory's own files have not.
    (tmp_path / "included").write_text(f"Host the-jump\n  HostName {pair[1].address}\n")
    assert open_session(_hosts(path)[0]).run("hostname").stdout == f"{pair[1].name}\n"


def test_both_stacks_reach_the_same_user(pair: list[FleetHost], tmp_path: Path) -> None:
    [host] = _hosts(pair[0].inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD))
    over_openssh = subprocess.run(
        [*ssh_command(host.connection), "id -un; hostname"], capture_output=True, text=True, check=True
    )
    assert (
        open_session(host).run("id -un; hostname").stdout
        == over_openssh.stdout
        == f"{SUDO_WITHOUT_PASSWORD}\n{pair[0].name}\n"
    )


@pytest.mark.parametrize(
    ("address", "port", "why"),
    [
        ("127.0.0.1", "closed", "connection refused: nothing listens on that port"),
        ("192.0.2.254", "22", r"no answer in time|no route to the host|the network is unreachable"),
        ("no-such-host.invalid", "22", "the name does not resolve"),
    ],
)
def test_an_unreachable_host_says_why(tmp_path: Path, address: str, port: str, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    number = closed if port == "closed" else int(port)
    entry = {"ansible_host": address, "ansible_port": number, "ansible_ssh_common_args": "-F none -o ConnectTimeout=1"}
    with pytest.raises(TransportError, match=rf"host gone \({address}:{number}\) cannot be reached: ({why})"):
        open_session(_hosts(_inventory(tmp_path, {"gone": entry}))[0]).run("true")


def test_a_power_cut_ends_a_command_with_a_transport_error_and_the_session_lives_on(
    fleet: Fleet, tmp_path: Path
) -> None:
    [host] = fleet.boot()
    opened = open_session(_hosts(host.inventory(tmp_path))[0])
    before = opened.run("cat /proc/sys/kernel/random/boot_id").stdout
    # As a provider does it: the wire stays, nobody answers.
    timer = threading.Timer(1.0, host.kill)
    timer.start()
    with pytest.raises(TransportError, match=f"host {host.name} .* (broke|cannot be reached)"):
        opened.run("sleep 30", timeout_s=5)
    timer.join()
    host.boot()
    assert opened.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    opened.close()
    host.remove()


def test_a_host_without_python_takes_commands_and_files(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot(python=False)
    opened = open_session(_hosts(host.inventory(tmp_path))[0])
    assert opened.run("command -v python3").rc != 0
    assert opened.send([staged(tmp_path, "a.whl", bytes_of(10_000, 6))], "/var/tmp/in").sent == ("a.whl",)
    opened.close()
    host.remove()


def test_a_reboot_keeps_what_was_written_and_the_key(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot()
    opened = open_session(_hosts(host.inventory(tmp_path))[0])
    opened.write("/root/kept", b"kept")
    boot = opened.run("cat /proc/sys/kernel/random/boot_id").stdout
    host.reboot()
    assert opened.read("/root/kept") == b"kept"
    assert opened.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    opened.close()
    host.remove()


def test_a_fleet_with_one_host_gone_answers_for_the_others(pair: list[FleetHost], tmp_path: Path) -> None:
    entries = {host.name: host.inventory_entry() for host in pair}
    entries["gone"] = pair[0].inventory_entry() | {"ansible_host": "127.0.0.1", "ansible_port": 1}
    sessions = {host.name: open_session(host) for host in _hosts(_inventory(tmp_path, entries))}

    def name_of(session: Session) -> str:
        return session.run("hostname").stdout.strip()

    done = fan_out([Task(name, partial(name_of, one), retries=1) for name, one in sessions.items()])
    assert done.values == {host.name: host.name for host in pair}
    assert isinstance(done.errors["gone"], TransportError)
    assert done.outcomes["gone"].tries == 2
    for one in sessions.values():
        one.close()


def test_turning_host_key_checks_off_is_refused(pair: list[FleetHost], tmp_path: Path) -> None:
    entry = pair[0].inventory_entry()
    entry["ansible_ssh_common_args"] += " -o StrictHostKeyChecking=no"
    with pytest.raises(InventoryError, match=r"host host1: .*host keys are checked, always"):
        _hosts(_inventory(tmp_path, {"host1": entry}))


def test_an_inventory_of_several_hosts_is_one_file(pair: list[FleetHost], tmp_path: Path) -> None:
    path = write_inventory(tmp_path, pair, firstlight_port=8123)
    assert [(host.name, host.settings.port) for host in _hosts(path)] == [(host.name, 8123) for host in pair]


def _inventory(folder: Path, entries: dict[str, dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "hosts.yml"
    path.write_text(json.dumps({"all": {"hosts": entries}}))
    return path
