"""What an uninstallation takes away and what it never does: the script of the role, tried alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.install.scripts import run_sh


def remove(prefix: str, **changes: str) -> subprocess.CompletedProcess[str]:
    variables = {"prefix": prefix, "incoming": "", "remove_packages": "0", "check": "0"}
    return run_sh("uninstall/files/remove.sh", **(variables | changes))


@pytest.mark.parametrize("prefix", ["/", "/etc/", "relative", "/opt/../etc", str(Path.home())])
def test_what_can_never_be_an_installation_is_not_removed(prefix: str) -> None:
    done = remove(prefix)
    assert done.returncode == 1
    assert prefix in done.stdout
    assert Path("/etc/os-release").exists()


def test_a_folder_that_is_not_ours_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = remove(str(tmp_path))
    assert done.returncode == 1
    assert "no marker" in done.stdout
    assert (tmp_path / "thesis.tex").exists()


def test_what_a_cut_off_installation_left_is_removed(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    (prefix / "envs" / "half").mkdir(parents=True)
    (prefix / ".firstlight").write_text("firstlight 1\n")
    assert remove(str(prefix)).returncode == 0
    assert not prefix.exists()


def test_drop_ins_and_what_was_set_aside_go_by_name(tmp_path: Path) -> None:
    units, prefix = tmp_path / "home/.config/systemd/user", tmp_path / "prefix"
    unit, kept = units / "firstlight-try.service", prefix / f"etc/set-aside{units}/firstlight-try.service.d/a.conf"
    for path in (unit, units / "firstlight-try.service.d/b.conf", units / "other.service.d/c.conf", kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\n")
    (prefix / "etc/units").write_text(f"{unit}\n")
    (prefix / ".firstlight").write_text("firstlight 1\n")
    done = remove(str(prefix))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"drop-ins {units}/firstlight-try.service.d" in done.stdout
    assert f"{kept}, which had been set aside" in done.stdout
    assert [path.name for path in units.iterdir()] == ["other.service.d"]


def test_incoming_is_removed_only_where_this_product_makes_it(tmp_path: Path) -> None:
    remove(str(tmp_path / "absent"), incoming=str(tmp_path))
    assert tmp_path.exists()
