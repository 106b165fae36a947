"""What an uninstallation removes and what it never removes: the script of the role, run alone."""

import getpass
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.install.scripts import run_sh
from tests.waiting import OUTLASTS_S, PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a folder for temporary files of its own."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def remove(prefix: str, **changes: str) -> subprocess.CompletedProcess[str]:
    variables = {"prefix": prefix, "incoming": "", "remove_packages": "0", "check": "0"}
    return run_sh("uninstall/files/remove.sh", **(variables | changes))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation, and programs of this test first on the path."""
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    (prefix / ".firstlight").write_text("firstlight 1\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return prefix


@pytest.mark.parametrize("prefix", ["/", "/etc/", "relative", "/opt/../etc", "~", "~/../link"])
def test_a_folder_that_cannot_be_an_installation_is_not_removed(prefix: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(Path.home())
    prefix = prefix.replace("~/..", str(tmp_path)).replace("~", str(Path.home()))
    done = remove(prefix)
    assert done.returncode == 1
    assert prefix in done.stdout
    assert Path("/etc/os-release").exists()


def test_a_folder_of_other_software_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = remove(str(tmp_path))
    assert done.returncode == 1
    assert "no marker" in done.stdout
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("marker", "is_removed"), [("", True), ("firstlight 1\n", True), ("of another program", False)]
)
def test_a_marker_that_its_disk_has_lost_is_one(installed: Path, marker: str, *, is_removed: bool) -> None:
    (installed / ".firstlight").write_text(marker)
    (installed / "bin").mkdir()
    assert (remove(str(installed)).returncode == 0) is is_removed
    assert installed.exists() is not is_removed


def keep_prefix(folder: Path, installed: Path, then: str) -> None:
    """Write an `rm` that empties the prefix, does `then`, and fails."""
    (folder / "rm").write_text(
        f"""#!/bin/sh
case "$*" in "-rf {installed} {installed}") {shutil.which("rm")} "$@"; mkdir {installed}; {then}; exit 1 ;; esac
exec {shutil.which("rm")} "$@"
"""
    )
    (folder / "rm").chmod(0o755)


@pytest.mark.parametrize(("kept", "is_removed"), [(".nfs0001", True), ("envs", False)])
def test_the_lock_of_the_run_is_open_on_nfs_and_nothing_else_may_stay(
    installed: Path, tmp_path: Path, kept: str, *, is_removed: bool
) -> None:
    """NFS renames it, and refuses to remove it and its folder. What comes after the folder is done then."""
    keep_prefix(tmp_path, installed, f": >{installed}/{kept}")
    (tmp_path / "home/.ansible/tmp").mkdir(parents=True)
    done = remove(str(installed))
    assert (done.returncode == 0) is is_removed, done.stdout + done.stderr
    assert (tmp_path / "home/.ansible").exists() is not is_removed


def test_a_mount_point_stays_as_an_empty_folder_and_is_listed(installed: Path, tmp_path: Path) -> None:
    keep_prefix(tmp_path, installed, ":")
    (tmp_path / "home/.ansible/tmp").mkdir(parents=True)
    done = remove(str(installed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"firstlight-left: folder {installed}, which is empty and cannot be removed\n" in done.stdout
    assert f"firstlight-changed: folder {installed}\n" not in done.stdout
    assert not (tmp_path / "home/.ansible").exists()


def test_the_rest_of_an_interrupted_installation_is_removed(installed: Path) -> None:
    (installed / "envs" / "half").mkdir(parents=True)
    assert remove(str(installed)).returncode == 0
    assert not installed.exists()


@pytest.mark.parametrize("how", ["its program", "envs/.lock", "models/.lock"])
def test_what_an_interrupted_run_left_running_is_ended(installed: Path, how: str) -> None:
    lock, program = installed / ("envs/.lock" if how == "its program" else how), installed / "bin/uv"
    for path in (lock, program):
        path.parent.mkdir()
    lock.touch()
    shutil.copy(shutil.which("sleep") or "", program)
    words = [str(program), str(OUTLASTS_S)] if how == "its program" else ["sleep", str(OUTLASTS_S)]
    with lock.open() as held, subprocess.Popen(words, pass_fds=[] if how == "its program" else [held.fileno()]) as left:
        held.close()
        done = remove(str(installed))
        assert left.wait(timeout=PATIENCE_S) == -signal.SIGTERM
    assert (done.returncode, installed.exists()) == (0, False), done.stdout + done.stderr
    assert f"firstlight-changed: process {left.pid} (SIGTERM)" in done.stdout


def test_what_a_run_left_before_it_claimed_the_prefix_is_removed(tmp_path: Path) -> None:
    prefix, incoming = tmp_path / "prefix", Path("/var/tmp/firstlight-of-a-test")
    prefix.mkdir()
    (prefix / "lock.json").write_text("{}")
    incoming.mkdir()
    assert remove(str(prefix), incoming=str(incoming)).returncode == 0
    assert not prefix.exists()
    assert not incoming.exists()
    prefix.mkdir()
    (prefix / "lock.json").write_text("{}")
    (prefix / "notes of locksmiths").write_text("years of work")
    assert remove(str(prefix)).returncode == 1
    assert (prefix / "notes of locksmiths").exists()


def test_what_another_service_of_the_machine_uses_stays_and_is_handed_on(tmp_path: Path) -> None:
    first, second, foreign = (tmp_path / f"fl{suffix}" for suffix in ("@chat", "@embed", "@notes"))
    for prefix in (first, second, foreign):
        prefix.mkdir()
    for prefix in (first, second):
        (prefix / ".firstlight").write_text("firstlight 1\n")
    (first / "installed-packages.txt").write_text("libnuma1\n")
    (second / "installed-packages.txt").write_text("g++\n")
    (first / "created-users.txt").write_text(f"{getpass.getuser()}\n")
    done = remove(str(first), remove_packages="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"libnuma1, which {second} uses too" in done.stdout
    assert (second / "installed-packages.txt").read_text() == "g++\nlibnuma1\n"
    assert (second / "created-users.txt").read_text() == f"{getpass.getuser()}\n"
    assert sorted(path.name for path in tmp_path.glob("fl*")) == ["fl@embed", "fl@notes"]


def test_what_another_prefix_has_taken_over_stays_and_is_handed_on(installed: Path, tmp_path: Path) -> None:
    """The unit has one name, and names the installation that it runs."""
    moved, units = tmp_path / "data" / installed.relative_to("/"), tmp_path / "home/.config/systemd/user"
    for folder in (moved, units, installed / "etc"):
        folder.mkdir(parents=True)
    (moved / ".firstlight").write_text("firstlight 1\n")
    (installed / "created-users.txt").write_text(f"{getpass.getuser()}\n")
    taken, own = units / "firstlight-vllm.service", units / "firstlight-health-agent.service"
    taken.write_text(f"[Service]\nWorkingDirectory={moved}\nEnvironmentFile={moved}/etc/service.env\n")
    own.write_text(f"[Service]\nExecStart={installed}/current/bin/python\n")
    (installed / "etc/units").write_text(f"{taken}\n{own}\n")
    (
        units / "firstlight-app.service.wants"
    ).mkdir()  # as systemd makes for the watchdog, before the unit that was taken
    done = remove(str(installed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"firstlight-left: unit {taken}, which another installation has" in done.stdout
    assert (taken.exists(), own.exists(), installed.exists()) == (True, False, False)
    assert (moved / "created-users.txt").read_text() == f"{getpass.getuser()}\n"


def test_a_prefix_that_is_a_link_is_removed_with_its_folder(installed: Path, tmp_path: Path) -> None:
    link, program = tmp_path / "link", installed / "envs/one/sleep"
    link.symlink_to(installed)
    program.parent.mkdir(parents=True)
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([str(link / "envs/one/sleep"), str(OUTLASTS_S)]) as left:
        done = remove(str(link))
        left.kill()
        assert left.wait(timeout=PATIENCE_S) == -signal.SIGTERM, done.stdout + done.stderr
    assert (done.returncode, link.is_symlink(), installed.exists()) == (0, False, False), done.stdout + done.stderr


def test_files_of_others_behind_a_link_stay(installed: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(installed)
    (installed / "envs").mkdir(exist_ok=True)
    mine = [".netrc", "results.json", "statement", "thesis.tex"]
    for name in mine:
        (installed / name).write_text("mine")
    done = remove(str(link))
    assert f"firstlight-left: folder {installed}, which holds what this product has not made: " in done.stdout
    assert (done.returncode, link.is_symlink()) == (0, False), done.stdout + done.stderr
    assert sorted(path.name for path in installed.iterdir()) == mine


def test_an_account_that_cannot_be_removed_is_listed(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "userdel").write_text("#!/bin/sh\nexit 8\n")
    (tmp_path / "userdel").chmod(0o755)
    (installed / "created-users.txt").write_text(f"{getpass.getuser()}\n")
    done = remove(str(installed))
    user = getpass.getuser()
    assert f"firstlight-left: account {user} (remove it with: userdel {user})" in done.stdout
    assert (done.returncode, installed.exists()) == (0, False)


def test_an_image_that_a_release_of_another_service_needs_is_handed_on(tmp_path: Path, installed: Path) -> None:
    chat, small = (tmp_path / f"prefix@{name}" for name in ("chat", "small"))
    (tmp_path / "podman").write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\n')
    (tmp_path / "podman").chmod(0o755)
    shared, own = "a" * 64, "b" * 64
    for prefix in (chat, small):
        (prefix / "etc").mkdir(parents=True)
        (prefix / ".firstlight").write_text("firstlight 1\n")
    (chat / "etc/images").write_text(f"{shared}\n{own}\n")
    (small / "releases/one").mkdir(parents=True)
    (small / "releases/one/release.json").write_text(json.dumps({"unit": f"[Container]\nImage={shared}\n"}))
    shutil.rmtree(installed)
    done = remove(str(chat))
    assert f"firstlight-left: image {shared}, which {small} uses too" in done.stdout, done.stdout + done.stderr
    assert (small / "etc/images").read_text() == f"{shared}\n"
    assert remove(str(small)).returncode == 0
    assert (tmp_path / "asked").read_text().splitlines() == [f"rmi {own}", f"rmi {shared}"]


def test_drop_ins_of_a_container_are_removed_in_both_forms(installed: Path, tmp_path: Path) -> None:
    units = tmp_path / "home/.config/containers/systemd"
    unit = units / "firstlight-try.container"
    for path in (unit, units / "firstlight-try.container.d/a.conf", units / "firstlight-try.service.d/b.conf"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\n")
    (installed / "etc").mkdir()
    (installed / "etc/units").write_text(f"{unit}\n")
    done = remove(str(installed))
    assert (done.returncode, [*units.iterdir()]) == (0, []), done.stdout + done.stderr
    assert f"drop-ins {units}/firstlight-try.container.d" in done.stdout


def test_drop_ins_and_saved_files_are_removed_by_name(installed: Path, tmp_path: Path) -> None:
    units = tmp_path / "home/.config/systemd/user"
    unit, kept = units / "firstlight-try.service", installed / f"etc/set-aside{units}/firstlight-try.service.d/a.conf"
    for path in (unit, units / "firstlight-try.service.d/b.conf", units / "other.service.d/c.conf", kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("[Service]\n")
    (installed / "etc/units").write_text(f"{unit}\n")
    done = remove(str(installed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"drop-ins {units}/firstlight-try.service.d" in done.stdout
    assert f"{kept}, which had been set aside" in done.stdout
    assert [path.name for path in units.iterdir()] == ["other.service.d"]


def test_the_incoming_folder_is_removed_only_in_its_own_location(tmp_path: Path) -> None:
    remove(str(tmp_path / "absent"), incoming=str(tmp_path))
    assert tmp_path.exists()


@pytest.mark.parametrize("used", [False, True])
def test_folders_of_tools_are_removed_where_they_are_empty_and_listed_else(
    installed: Path, tmp_path: Path, *, used: bool
) -> None:
    compiled = tmp_path / f"torchinductor_{getpass.getuser()}"
    compiled.mkdir()
    (tmp_path / "home/.ansible/tmp").mkdir(parents=True)
    if used:
        (tmp_path / "home/.ansible/tmp/other").touch()
    done = remove(str(installed))
    assert (tmp_path / "home/.ansible").exists() is used
    said = f"firstlight-left: folder {tmp_path}/home/.ansible/tmp, which is not empty"
    assert (said in done.stdout.splitlines()) is used
    assert f"firstlight-left: folder {compiled}, code that torch compiled" in done.stdout
    assert compiled.exists()


def test_data_of_packages_is_listed(installed: Path, tmp_path: Path) -> None:
    """Their own services have run until they were switched off."""
    (tmp_path / "dpkg").write_text("#!/bin/sh\necho /var/lib; echo /var/lib/dpkg; echo /var/lib/$2-of-a-test\n")
    (tmp_path / "dpkg").chmod(0o755)
    (installed / "installed-packages.txt").write_text("prometheus\n")
    done = remove(str(installed))
    assert [line for line in done.stdout.splitlines() if "data of" in line] == [
        "firstlight-left: data of these packages: /var/lib/dpkg"
    ]
