"""The host lock, with the real `flock`: it is held while its holder lives, and free when the holder has ended in any way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from provision.core.errors import Exit, HostLockedError, RemoteCommandError
from provision.core.models.settings import Connection
from provision.fleet.locks import lock_host
from provision.fleet.ssh.local import LocalSession

HOLDER = """
import sys, time
from provision.fleet.locks import lock_host
from provision.core.models.settings import Connection
from provision.fleet.ssh.local import LocalSession
with lock_host(LocalSession("node", Connection(kind="local")), prefix=sys.argv[1], run="20261120T080000Z", root=False):
    print("locked", flush=True)
    time.sleep(600)
"""


def session() -> LocalSession:
    return LocalSession("node", Connection(kind="local"))


def test_a_second_run_names_the_locking_run_and_its_start(tmp_path: Path) -> None:
    prefix = str(tmp_path / "a prefix")
    with lock_host(session(), prefix=prefix, run="first", root=False):
        with pytest.raises(HostLockedError) as refused, lock_host(session(), prefix=prefix, run="second", root=False):
            pass
        assert refused.value.exit_code == Exit.LOCKED
        assert "run first" in refused.value.text
        assert f"(process {os.getpid()}) since 20" in refused.value.text
    with lock_host(session(), prefix=prefix, run="second", root=False):
        pass
    assert not (tmp_path / "a prefix" / "lock.json").exists()


def test_the_lock_of_a_killed_controller_is_released(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(HostLockedError), lock_host(session(), prefix=str(tmp_path), run="next", root=False):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(50):
        try:
            with lock_host(session(), prefix=str(tmp_path), run="next", root=False):
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
    with (
        lock_host(session(), prefix=str(prefix), run="first", root=False),
        pytest.raises(HostLockedError, match="run first"),
        lock_host(session(), prefix=str(prefix), run="second", root=False),
    ):
        pass
    assert (tmp_path / "went").exists()


def test_a_prefix_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RemoteCommandError) as refused,
        lock_host(session(), prefix=str(tmp_path / "file" / "prefix"), run="run", root=False),
    ):
        pass
    assert "could not be taken" in refused.value.text
    assert "Not a directory" in refused.value.text


def test_a_holder_without_an_account_name_is_named_by_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    with lock_host(session(), prefix=str(tmp_path), run="first", root=False):
        with (
            pytest.raises(HostLockedError) as refused,
            lock_host(session(), prefix=str(tmp_path), run="second", root=False),
        ):
            pass
        assert f"run first of {os.getuid()}@" in refused.value.text
