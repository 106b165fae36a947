"""Passwords reach Ansible without a file on any disk, so that no way of ending leaves one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from provision.install import Target, install
from provision.install.hosts_file import render_secrets
from provision.install.memory_file import memory_file, remove_left_passwords
from tests.install.conftest import Site
from tests.install.test_room import host

SECRET = "sudo-s3cret {{ 7 * 7 }}"


def test_ansible_reads_it_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    with memory_file(render_secrets({"gpu-1": {"ansible_become_password": SECRET}})) as path:
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-inventory"), "-i", path, "--host", "gpu-1"],
            capture_output=True,
            env={**os.environ, "HOME": str(tmp_path)},
            check=True,
        )
        mode = path.stat().st_mode
    assert json.loads(done.stdout)["ansible_become_password"] in (SECRET, {"__ansible_unsafe": SECRET})
    assert mode & 0o777 == 0o600
    assert not path.exists()


def test_no_file_holds_a_password_at_any_time(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = Path(tempfile.mkdtemp(prefix="t", dir="/tmp"))  # a control socket's path must be short
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("TMPDIR", str(temporary))
    seen: set[str] = set()
    looked: list[Path] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            for path in (path for root in (temporary, run.folder) for path in root.rglob("*")):
                looked.append(path)
                try:
                    if path.is_file() and b"sudo-s3cret" in path.read_bytes():
                        seen.add(str(path))
                except OSError:
                    continue

    run = site.run()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        results = install(
            run, [Target(host("this", become_password=SecretStr(SECRET)), site.variables)], playbook="stop"
        )
    finally:
        over.set()
        thread.join()
    assert results["this"].status == "ok", results
    assert looked, "the playbook's private folder was looked through"
    assert seen == set()


def test_what_killed_runs_of_earlier_releases_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, other = tmp_path / "firstlight-ab12" / "secrets.yml", tmp_path / "else" / "secrets.yml"
    for path in (left, other):
        path.parent.mkdir()
        path.write_text("ansible_become_password: x")
    (tmp_path / "firstlight-link").symlink_to(other.parent)
    remove_left_passwords()
    assert not left.exists()
    assert other.exists()
