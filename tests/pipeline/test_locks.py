"""The host lock, with the real `flock`: it is held while its holder lives, and free when the holder has ended in any way."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provision.core.errors import Exit, HostLockedError, RemoteCommandError
from provision.core.models.inventory import Connection
from provision.fleet.locks import HostLock
from provision.fleet.ssh.local import LocalSession

HOLDER = """
import contextlib, sys, time
from provision.fleet.locks import HostLock
from provision.core.models.inventory import Connection
from provision.fleet.ssh.local import LocalSession
session = LocalSession("node", Connection(kind="local"))
with contextlib.closing(HostLock(session, prefix=sys.argv[1], run="20261120T080000Z", root=False)):
    print("locked", flush=True)
    time.sleep(600)
"""


def lock(prefix: Path, run: str) -> contextlib.closing[HostLock]:
    session = LocalSession("node", Connection(kind="local"))
    return contextlib.closing(HostLock(session, prefix=str(prefix), run=run, root=False))


def test_a_second_run_names_the_locking_run_and_its_start(tmp_path: Path) -> None:
    prefix = tmp_path / "a prefix"
    prefix.mkdir()
    (prefix / "lock").touch(0o644)  # left by a run
    with lock(prefix, "first"):
        assert (prefix / "lock").stat().st_mode & 0o777 == 0o600, "whoever may read it may lock it"
        assert (prefix / "lock.json").stat().st_mode & 0o777 == 0o644
        with pytest.raises(HostLockedError) as refused, lock(prefix, "second"):
            pass
        assert refused.value.exit_code == Exit.LOCKED
        assert "run first" in refused.value.text
        assert f"(process {os.getpid()}) since 20" in refused.value.text
        assert (refused.value.hint or "").endswith(f"end the process on the host: fuser -v {prefix}/lock")
    with lock(prefix, "second"):
        pass
    assert not (tmp_path / "a prefix" / "lock.json").exists()


def test_the_lock_of_a_killed_controller_is_released(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(HostLockedError), lock(tmp_path, "next"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(50):
        try:
            with lock(tmp_path, "next"):
                return
        except HostLockedError:
            continue
    pytest.fail("the lock outlived its holder")


def test_a_lock_file_that_is_removed_while_it_is_locked_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, tools = tmp_path / "prefix", tmp_path / "tools"
    tools.mkdir()
    slow = tools / "flock"
    slow.write_text(
        f"""#!/bin/sh
[ -e {tmp_path}/went ] || {{ : >{tmp_path}/went; rm {prefix}/lock; }}
exec {shutil.which("flock")} "$@"
"""
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    with lock(prefix, "first"), pytest.raises(HostLockedError, match="run first"), lock(prefix, "second"):
        pass
    assert (tmp_path / "went").exists()


def test_the_folder_goes_with_the_lock_that_an_uninstallation_removed(tmp_path: Path) -> None:
    """On NFS the folder stays until the lock is closed; one that another run has filled stays."""
    for name, stays in (("empty", False), ("filled", True)):
        prefix = tmp_path / name
        with lock(prefix, "first"):
            for file in prefix.iterdir():
                file.unlink()
            if stays:
                (prefix / "envs").mkdir()
        assert prefix.exists() is stays


def test_a_prefix_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RemoteCommandError) as refused, lock(tmp_path / "file" / "prefix", "run"):
        pass
    assert "could not be taken" in refused.value.text
    assert "Not a directory" in refused.value.text


@pytest.mark.parametrize(
    ("sudo", "text", "hint"),
    [
        ("echo a password is required >&2; exit 1", "it said: a password is required", "--ask-become-pass"),
        ('shift 2; exec "$@"', "could not be taken: mkdir: ", "can be written"),
    ],
    ids=["refuses", "allows"],
)
def test_a_lock_of_root_that_is_not_taken_is_reported_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sudo: str, text: str, hint: str
) -> None:
    for name, command in {"id": "echo 1000", "sudo": sudo}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    session = LocalSession("node", Connection(kind="local", become=True))
    with pytest.raises(RemoteCommandError) as refused:
        HostLock(session, prefix=str(tmp_path / "id/prefix"), run="first", root=True)
    assert text in refused.value.text
    assert hint in (refused.value.hint or "")


def test_a_holder_without_an_account_name_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    with lock(tmp_path, "first"):
        with pytest.raises(HostLockedError) as refused, lock(tmp_path, "second"):
            pass
        assert f"run first of {os.getuid()}@" in refused.value.text


def test_a_lock_that_its_host_released_is_taken_anew(tmp_path: Path) -> None:
    with lock(tmp_path, "first") as held:
        assert not held.renew()
        end_holder(tmp_path)
        assert held.renew()
        assert not held.renew()
        with pytest.raises(HostLockedError, match="run first"):
            lock(tmp_path, "second")
    assert not (tmp_path / "lock").exists()


def test_a_lock_that_another_run_took_meanwhile_is_not_taken_anew(tmp_path: Path) -> None:
    with lock(tmp_path, "first") as held:
        end_holder(tmp_path)
        with lock(tmp_path, "second"), pytest.raises(HostLockedError, match="run second"):
            held.renew()


def end_holder(prefix: Path) -> None:
    """Kill what holds a lock on this machine, as a loss of power does: it removes no file."""
    for opened in Path("/proc").glob("[0-9]*/fd/9"):
        with contextlib.suppress(OSError):
            if opened.readlink() == prefix / "lock":
                os.killpg(os.getpgid(int(opened.parts[2])), signal.SIGKILL)
    while f":{(prefix / 'lock').stat().st_ino} " in Path("/proc/locks").read_text():
        time.sleep(0.01)


def test_a_lock_whose_connection_broke_here_alone_is_this_runs_until_the_host_notices(tmp_path: Path) -> None:
    with lock(tmp_path, "first") as held:
        kept = held._channel
        held._channel = held._session.open_channel("exit 0")
        assert not held.renew(), "another run cannot have it"
        kept.close()
        assert held.renew()
        assert not held.renew()
