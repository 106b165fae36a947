"""Sessions with real hosts, and their errors."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.errors import RemoteCommandError, StageError, TransportError
from provision.fleet.ssh import Session, open_session
from tests.fleet.hosts import NO_SUDO, SUDO_WITH_PASSWORD, SUDO_WITHOUT_PASSWORD, Fleet, FleetHost
from tests.fleet.inventories import hosts_of
from tests.ssh.files import bytes_of, staged
from tests.waiting import wait_until


@pytest.fixture
def session(pair: list[FleetHost], tmp_path: Path) -> Iterator[Session]:
    opened = open_session(hosts_of(pair[0].inventory(tmp_path))[0])
    yield opened
    opened.close()


def test_output_error_output_and_status_of_a_command_are_separate(session: Session) -> None:
    done = session.run("cat; echo oops >&2; exit 7", stdin="a 'quoted' \"text\" $HOME\n")
    assert (done.rc, done.stdout, done.stderr) == (7, "a 'quoted' \"text\" $HOME\n", "oops\n")


def test_long_input_and_long_output_do_not_block_each_other(session: Session) -> None:
    text = "0123456789abcdef" * 200_000
    assert session.run("cat", stdin=text).stdout == text


def test_an_endless_command_is_ended_on_the_host(session: Session) -> None:
    with pytest.raises(RemoteCommandError, match=r"host\d+ did not end within 1 s: sleep 987"):
        session.run("sleep 987", timeout_s=1)
    wait_until(lambda: session.run("pgrep -f '^sleep 987' || true").stdout == "", "it goes on", every_s=0.5)


def test_files_are_written_completely_and_read_again(session: Session) -> None:
    content = bytes(range(256)) * 1000
    session.write("/root/some file", content, mode=0o640)
    assert session.read("/root/some file") == content
    seen = session.run("stat -c '%a' '/root/some file'; ls -A /root | grep -c firstlight || true")
    assert seen.stdout.split() == ["640", "0"]
    with pytest.raises(FileNotFoundError):
        session.read("/root/another file")


def test_root_with_a_password_never_shows_it(pair: list[FleetHost], tmp_path: Path) -> None:
    path = pair[0].inventory(tmp_path, user=SUDO_WITH_PASSWORD)
    [host] = hosts_of(path, become_password=pair[0].admin_password)
    opened = open_session(host)
    # Twice: the second time sudo does not ask, and the password line must not reach the command.
    for _ in range(2):
        done = opened.run("id -u; cat; ps -eo args", stdin="for the command", root=True)
        assert done.stdout.startswith("0\nfor the command")
        assert pair[0].admin_password not in done.stdout
    opened.write("/root/by-admin", b"x", root=True)
    assert opened.read("/root/by-admin", root=True) == b"x"
    assert pair[0].admin_password not in host.model_dump_json() + repr(host)
    opened.close()


def test_a_wrong_sudo_password_names_the_host(pair: list[FleetHost], tmp_path: Path) -> None:
    opened = open_session(hosts_of(pair[0].inventory(tmp_path, user=SUDO_WITH_PASSWORD), become_password="wrong")[0])
    with pytest.raises(RemoteCommandError, match=f"sudo on host {pair[0].name} refused the password") as caught:
        opened.run("id -u", stdin="first line\nsecond line\n", root=True)
    assert "--ask-become-pass" in (caught.value.hint or "")
    assert "wrong" not in caught.value.render().replace("went wrong", "")
    opened.close()


@pytest.mark.parametrize("user", [SUDO_WITH_PASSWORD, NO_SUDO])
def test_a_missing_sudo_password_is_reported(pair: list[FleetHost], tmp_path: Path, user: str) -> None:
    opened = open_session(hosts_of(pair[0].inventory(tmp_path, user=user))[0])
    with pytest.raises(RemoteCommandError, match=f"sudo on host {pair[0].name} wants a password or is not there"):
        opened.run("id -u", root=True)
    opened.close()


def test_sudo_without_a_password_is_used(pair: list[FleetHost], tmp_path: Path) -> None:
    for overrides in ({}, {"become_password": "not needed"}):
        opened = open_session(hosts_of(pair[0].inventory(tmp_path, user=SUDO_WITHOUT_PASSWORD), **overrides)[0])
        assert opened.run("id -u; cat", stdin="mine", root=True).stdout == "0\nmine"
        opened.close()


def test_send_transfers_missing_files_once(session: Session, tmp_path: Path) -> None:
    big = staged(tmp_path, "big-1.0.whl", bytes_of(40_000_000, 1))
    files = [big, *(staged(tmp_path, f"small{number}.whl", bytes_of(1000 * number, number)) for number in range(30))]
    moved: list[int] = []
    folder = "/var/tmp/firstlight-send"
    first = session.send(files, folder, progress=moved.append)
    assert (len(first.sent), sum(moved)) == (31, sum(file.size for file in files))
    again = session.send(files, folder)
    assert (again.sent, again.bytes_sent) == ((), 0)
    there = session.run(f"cd {folder} && sha256sum *.whl && stat -c %a .").stdout
    assert all(f"{file.sha256}  {file.name}\n" in there for file in files)
    assert there.endswith("700\n")
    # A file that changed on the host no longer counts as verified.
    session.run(f"echo x >> {folder}/small7.whl")
    assert session.send(files, folder).sent == ("small7.whl",)


def test_an_interrupted_send_is_resumed(pair: list[FleetHost], session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "cut.whl", bytes_of(150_000_000, 2))
    folder = "/var/tmp/firstlight-cut"
    seen = 0

    def cut_in_the_middle(count: int) -> None:
        nonlocal seen
        seen += count
        if seen > file.size // 3:
            # The receiving process dies in the middle of the stream, as when a host loses its network.
            pair[0].sh("pkill -KILL -x cat", check=False)

    with pytest.raises((TransportError, StageError)):
        session.send([file], folder, progress=cut_in_the_middle)
    report = session.send([file], folder)
    assert report.sent == ("cut.whl",)
    assert 0 < report.bytes_sent < file.size
    assert file.sha256 in session.run(f"sha256sum {folder}/cut.whl").stdout


def test_a_file_damaged_in_transit_is_sent_again(session: Session, tmp_path: Path) -> None:
    file = staged(tmp_path, "damaged.whl", bytes_of(40_000_000, 3))
    folder = "/var/tmp/firstlight-damaged"
    from provision.fleet.ssh.upload import part_name

    session.run(f"mkdir -m 700 {folder}; head -c 1000 /dev/zero > {folder}/{part_name(file)}")
    moved: list[int] = []
    report = session.send([file], folder, progress=moved.append)
    assert report.sent == ("damaged.whl",)
    assert sum(moved) == file.size
    assert file.sha256 in session.run(f"sha256sum {folder}/damaged.whl").stdout


def test_a_full_disk_ends_a_transfer_with_its_reason(pair: list[FleetHost], session: Session, tmp_path: Path) -> None:
    pair[0].sh("mkdir -p /srv/small; mount -t tmpfs -o size=20m tmpfs /srv/small")
    try:
        with pytest.raises(StageError, match=r"did not take the files: .*No space left on device"):
            session.send([staged(tmp_path, "a.whl", bytes_of(40_000_000, 4))], "/srv/small/in")
    finally:
        pair[0].sh("umount /srv/small")


def test_an_incoming_folder_of_another_user_is_not_used(pair: list[FleetHost], tmp_path: Path) -> None:
    pair[0].sh("mkdir -p /var/tmp/firstlight-trap && chmod 777 /var/tmp/firstlight-trap")
    opened = open_session(hosts_of(pair[0].inventory(tmp_path, user=NO_SUDO))[0])
    with pytest.raises(StageError, match="belongs to another user"):
        opened.send([staged(tmp_path, "a.whl", b"x")], "/var/tmp/firstlight-trap")
    opened.close()


def test_a_power_cut_ends_a_command_with_a_transport_error_and_the_session_continues(
    fleet: Fleet, tmp_path: Path
) -> None:
    [host] = fleet.boot()
    opened = open_session(hosts_of(host.inventory(tmp_path))[0])
    before = opened.run("cat /proc/sys/kernel/random/boot_id").stdout
    # As at a cloud provider: the network stays up, and the host does not answer.
    timer = threading.Timer(1.0, host.kill)
    timer.start()
    with pytest.raises(TransportError, match=f"host {host.name} .* (broke|cannot be reached)"):
        opened.run("sleep 30", timeout_s=5)
    timer.join()
    host.boot()
    assert opened.run("cat /proc/sys/kernel/random/boot_id").stdout != before
    opened.close()
    host.remove()


def test_a_host_without_python_accepts_commands_and_files(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot()
    host.sh("rm /usr/bin/python3*")
    opened = open_session(hosts_of(host.inventory(tmp_path))[0])
    assert opened.run("command -v python3").rc != 0
    assert opened.send([staged(tmp_path, "a.whl", bytes_of(10_000, 6))], "/var/tmp/in").sent == ("a.whl",)
    opened.close()
    host.remove()


def test_a_reboot_keeps_written_files_and_the_key(fleet: Fleet, tmp_path: Path) -> None:
    [host] = fleet.boot()
    opened = open_session(hosts_of(host.inventory(tmp_path))[0])
    opened.write("/root/kept", b"kept")
    boot = opened.run("cat /proc/sys/kernel/random/boot_id").stdout
    host.reboot()
    assert opened.read("/root/kept") == b"kept"
    assert opened.run("cat /proc/sys/kernel/random/boot_id").stdout != boot
    opened.close()
    host.remove()
