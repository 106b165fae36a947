"""Preparing a host for Ansible's modules: the script of the role, run alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.install.scripts import run_sh, script_text


def prepare(prefix: str, **changes: str) -> subprocess.CompletedProcess[str]:
    variables = {
        "prefix": prefix,
        "root": "0",
        "owner": "nobody",
        "incoming": "",
        "packages": "",
        "debs": "",
        "lock_timeout_s": "1",
        "check": "0",
    }
    return run_sh("base/files/prepare.sh", **(variables | changes))


def test_a_prefix_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = prepare(str(tmp_path))
    assert done.returncode == 1
    assert f"prefix {tmp_path} holds files that are not of this product: thesis.tex" in done.stdout
    assert "firstlight_prefix" in done.stdout


def test_a_prefix_that_a_run_has_locked_is_used(tmp_path: Path) -> None:
    """The pipeline writes the holder of a host's lock before anything is installed there."""
    (tmp_path / "lock.json").write_text("{}")
    assert prepare(str(tmp_path)).returncode == 0
    assert (tmp_path / ".firstlight").read_text() == "firstlight 1\n"


def test_a_prepared_host_is_not_changed(tmp_path: Path) -> None:
    assert "firstlight-changed:" in prepare(str(tmp_path)).stdout
    again = prepare(str(tmp_path))
    assert "firstlight-changed:" not in again.stdout
    assert "firstlight-python: /" in again.stdout


def test_a_missing_package_is_refused_if_it_cannot_be_installed(tmp_path: Path) -> None:
    """A package manager without packages, and a user who is not root."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("id", "echo 1000"), ("dpkg-query", "exit 1"), ("apt-get", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script_text("base/files/prepare.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{programs}:{os.environ['PATH']}",
            "FIRSTLIGHT_PREFIX": str(tmp_path / "prefix"),
            "FIRSTLIGHT_ROOT": "0",
            "FIRSTLIGHT_OWNER": "somebody",
            "FIRSTLIGHT_INCOMING": "",
            "FIRSTLIGHT_PACKAGES": "libnuma1 g++",
            "FIRSTLIGHT_DEBS": "",
            "FIRSTLIGHT_LOCK_TIMEOUT_S": "1",
            "FIRSTLIGHT_CHECK": "0",
        },
    )
    assert done.returncode == 1
    assert "libnuma1 g++" in done.stdout
    assert "firstlight-hint: have them installed: sudo apt-get install -y libnuma1 g++" in done.stdout
