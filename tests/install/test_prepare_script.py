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


def test_a_marker_that_its_disk_has_lost_is_written_again(tmp_path: Path) -> None:
    (tmp_path / ".firstlight").touch()
    assert f"firstlight-changed: prefix {tmp_path}" in prepare(str(tmp_path)).stdout
    assert (tmp_path / ".firstlight").read_text() == "firstlight 1\n"


def test_a_prepared_host_is_not_changed(tmp_path: Path) -> None:
    assert "firstlight-changed:" in prepare(str(tmp_path)).stdout
    again = prepare(str(tmp_path))
    assert "firstlight-changed:" not in again.stdout
    assert "firstlight-python: /" in again.stdout


def prepare_with(programs: dict[str, str], folder: Path, packages: str) -> subprocess.CompletedProcess[str]:
    """Prepare a host whose package manager is made of scripts."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    asked = {
        "PREFIX": str(folder.parent / "prefix"),
        "ROOT": "0",
        "OWNER": "somebody",
        "INCOMING": "",
        "PACKAGES": packages,
        "DEBS": "",
        "LOCK_TIMEOUT_S": "1",
        "CHECK": "0",
    }
    return subprocess.run(
        ["sh", "-c", script_text("base/files/prepare.sh")],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{folder}:{os.environ['PATH']}", **{f"FIRSTLIGHT_{name}": text for name, text in asked.items()}},
    )


def test_packages_that_were_installed_and_not_noted_are_noted_by_the_next_run(tmp_path: Path) -> None:
    """The disk of the prefix may be full, or lost, when that of the packages is not."""
    installed = tmp_path / "installed"
    installed.write_text("bash\n")
    programs = {
        "id": "echo 0",
        "dpkg": "exit 0",
        "dpkg-query": f'for last; do :; done; case $* in *Package*) sed "s/^/installed /" {installed} ;; '
        f'*) grep -qx -- "$last" {installed} && printf installed ;; esac',
        "apt-get": f'for last; do :; done; echo libexample1 >>{installed}; echo "$last" >>{installed}',
    }
    cut_off = prepare_with(
        {**programs, "mv": 'case $* in *packages.txt) exit 1 ;; *) exec /bin/mv "$@" ;; esac'}, tmp_path / "bin", "g++"
    )
    assert cut_off.returncode != 0
    listed = tmp_path / "prefix/installed-packages.txt"
    assert not listed.exists()
    (tmp_path / "bin/mv").unlink()
    assert prepare_with(programs, tmp_path / "bin", "g++").returncode == 0
    assert listed.read_text() == "g++\nlibexample1\n"
    assert {path.name for path in listed.parent.iterdir()} == {".firstlight", "installed-packages.txt"}
    assert prepare_with(programs, tmp_path / "bin", "g++").returncode == 0
    assert listed.read_text() == "g++\nlibexample1\n"


def test_a_missing_package_is_refused_if_it_cannot_be_installed(tmp_path: Path) -> None:
    """A package manager without packages, and a user who is not root."""
    programs = {"id": "echo 1000", "dpkg-query": "exit 1", "apt-get": "exit 1"}
    done = prepare_with(programs, tmp_path / "bin", "libnuma1 g++")
    assert done.returncode == 1
    assert "libnuma1 g++" in done.stdout
    assert "firstlight-hint: have them installed: sudo apt-get install -y libnuma1 g++" in done.stdout


def test_a_package_that_no_source_offers_says_where_to_look(tmp_path: Path) -> None:
    """The same command by hand would fail as well."""
    programs = {"id": "echo 0", "dpkg": "exit 0", "dpkg-query": "exit 1"}
    programs["apt-get"] = "echo 'E: Unable to locate package haproxy'; exit 100"
    done = prepare_with(programs, tmp_path / "bin", "haproxy")
    assert done.returncode == 1
    assert "firstlight-hint: the package sources of this host do not offer it: sudo apt-get update" in done.stdout
