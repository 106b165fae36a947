"""Preparing a host for Ansible's modules: the script of the role, run alone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.install.scripts import ROLES, run_sh
from tests.probe.here import program


def prepare(
    prefix: Path, *, packages: str = "", root: str = "0", owner: str = "root", hides_homes: str = "0"
) -> subprocess.CompletedProcess[str]:
    variables = {
        "hides_homes": hides_homes,
        "root": root,
        "owner": owner,
        "incoming": "",
        "debs": "",
        "lock_timeout_s": "1",
        "check": "0",
    }
    return run_sh("base/files/prepare.sh", prefix=str(prefix), packages=packages, **variables)


def test_a_prefix_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = prepare(tmp_path)
    assert done.returncode == 1
    assert f"prefix {tmp_path} holds files that are not of this product: thesis.tex" in done.stdout
    assert "firstlight_prefix" in done.stdout


def test_a_link_to_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/thesis.tex").write_text("years of work")
    (tmp_path / "prefix").symlink_to(tmp_path / "data")
    done = prepare(tmp_path / "prefix")
    assert done.returncode == 1
    assert "holds files that are not of this product: thesis.tex" in done.stdout


def test_a_link_to_a_home_directory_is_refused_where_the_service_sees_none(tmp_path: Path) -> None:
    prefix = tmp_path / "prefix"
    prefix.symlink_to("/home/ada/firstlight")
    done = prepare(prefix, hides_homes="1")
    assert done.returncode == 1
    assert f"prefix {prefix} leads to /home/ada/firstlight, and the service sees no home directory" in done.stdout
    assert "firstlight-hint: set firstlight_prefix to /home/ada/firstlight" in done.stdout
    prefix.unlink()
    prefix.symlink_to(tmp_path / "data")
    (tmp_path / "data").mkdir()
    assert prepare(prefix, hides_homes="1").returncode == 0


def test_a_prefix_that_a_run_has_locked_is_used(tmp_path: Path) -> None:
    """The pipeline writes the holder of a host's lock before anything is installed there."""
    (tmp_path / "lock.json").write_text("{}")
    assert prepare(tmp_path).returncode == 0
    assert (tmp_path / ".firstlight").read_text() == "firstlight 1\n"


def test_a_marker_that_its_disk_has_lost_is_written_again(tmp_path: Path) -> None:
    (tmp_path / ".firstlight").touch()
    assert f"firstlight-changed: prefix {tmp_path}" in prepare(tmp_path).stdout
    assert (tmp_path / ".firstlight").read_text() == "firstlight 1\n"


def test_a_prepared_host_is_not_changed(tmp_path: Path) -> None:
    assert "firstlight-changed:" in prepare(tmp_path).stdout
    again = prepare(tmp_path)
    assert "firstlight-changed:" not in again.stdout
    assert "firstlight-python: /" in again.stdout


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for the programs of a package manager, which come first."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def listing(installed: Path) -> dict[str, str]:
    """Return programs of root on a host whose packages a file has, a name each line: bash at first."""
    installed.write_text("bash\n")
    query = f"""for last; do :; done
        case $* in
            *Package*) sed "s/^/installed /" {installed} ;;
            *) grep -qx -- "$last" {installed} && printf installed ;;
        esac"""
    return {"id": "echo 0", "dpkg": "exit 0", "dpkg-query": query}


def test_packages_that_were_installed_and_not_noted_are_noted_by_the_next_run(programs: Path, tmp_path: Path) -> None:
    """The disk of the prefix may be full, or lost, when that of the packages is not."""
    installed, prefix = tmp_path / "installed", tmp_path / "prefix"
    for name, body in {
        **listing(installed),
        "apt-get": f'for last; do :; done; echo libexample1 >>{installed}; echo "$last" >>{installed}',
        "mv": 'case $* in *packages.txt) exit 1 ;; *) exec /bin/mv "$@" ;; esac',
    }.items():
        program(programs, name, body)
    assert prepare(prefix, packages="g++").returncode != 0
    listed = prefix / "installed-packages.txt"
    assert not listed.exists()
    (programs / "mv").unlink()
    for _ in range(2):
        assert prepare(prefix, packages="g++").returncode == 0
        assert listed.read_text() == "g++\nlibexample1\n"
        assert {path.name for path in prefix.iterdir()} == {".firstlight", "installed-packages.txt"}


def test_what_others_install_after_a_failed_run_is_theirs(programs: Path, tmp_path: Path) -> None:
    installed, prefix = tmp_path / "installed", tmp_path / "prefix"
    for name, body in {
        **listing(installed),
        "apt-get": f"echo libexample1 >>{installed}; echo 'E: Failed to fetch'; exit 100",
    }.items():
        program(programs, name, body)
    assert prepare(prefix, packages="g++").returncode != 0
    installed.write_text(installed.read_text() + "nginx\n")
    program(programs, "apt-get", f"echo g++ >>{installed}")
    assert prepare(prefix, packages="g++").returncode == 0
    assert (prefix / "installed-packages.txt").read_text() == "g++\nlibexample1\n"


@pytest.mark.parametrize("held", [1, 9])
def test_an_upgrade_by_another_package_manager_is_waited_for(programs: Path, tmp_path: Path, held: int) -> None:
    """It leaves packages unpacked for a while, which are then to be configured."""
    there, tries, clock = tmp_path / "there", tmp_path / "tries", tmp_path / "clock"
    locked = "dpkg: error: dpkg frontend lock was locked by another process with pid 4711"
    for name, body in {
        "id": "echo 0",
        "sleep": f"echo >>{clock}",
        "date": f"cat {clock} 2>/dev/null | wc -l",
        "dpkg": f"case $1 in --audit) echo unpacked ;; *) echo >>{tries}; "
        f"[ $(wc -l <{tries}) -gt {held} ] || {{ echo '{locked}'; exit 2; }} ;; esac",
        "dpkg-query": f"[ ! -e {there} ] || printf installed",
        "apt-get": f"touch {there}",
    }.items():
        program(programs, name, body)
    done = prepare(tmp_path / "prefix", packages="g++")
    assert (done.returncode == 0) == (held == 1), done.stdout
    assert ("another package manager (4711) held its lock for 1 s" in done.stdout) == (held > 1)


def test_a_package_of_two_architectures_is_installed(programs: Path, tmp_path: Path) -> None:
    shown = 'form=${2#-f=}; printf "${form%%$*}installed${form##*\\}}"'
    for name, body in {"id": "echo 1000", "dpkg-query": f"{shown}; {shown}"}.items():
        program(programs, name, body)
    done = prepare(tmp_path / "prefix", packages="libnuma1")
    assert "libnuma1" not in done.stdout


def test_a_source_that_does_not_answer_keeps_no_package_of_another_one(programs: Path, tmp_path: Path) -> None:
    """Lists are old, and of one source they cannot be renewed."""
    lists, there = tmp_path / "lists", tmp_path / "there"
    for name, body in {
        "id": "echo 0",
        "dpkg": "exit 0",
        "dpkg-query": f"[ ! -e {there} ] || printf installed",
        "apt-get": f"case $* in *update) touch {lists}; exit 100 ;; *) [ -e {lists} ] && touch {there} ;; esac",
    }.items():
        program(programs, name, body)
    done = prepare(tmp_path / "prefix", packages="g++")
    assert done.returncode == 0, done.stdout


def test_a_missing_package_is_refused_if_it_cannot_be_installed(programs: Path, tmp_path: Path) -> None:
    """A package manager without packages, and a user who is not root."""
    for name, body in {"id": "echo 1000", "dpkg-query": "exit 1", "apt-get": "exit 1"}.items():
        program(programs, name, body)
    done = prepare(tmp_path / "prefix", packages="libnuma1 g++")
    assert done.returncode == 1
    assert "libnuma1 g++" in done.stdout
    assert "firstlight-hint: have them installed: sudo apt-get install -y libnuma1 g++" in done.stdout


def test_a_package_that_no_source_offers_says_where_to_look(programs: Path, tmp_path: Path) -> None:
    """The same command by hand would fail as well."""
    unknown = "echo 'E: Unable to locate package haproxy'; exit 100"
    for name, body in {"id": "echo 0", "dpkg": "exit 0", "dpkg-query": "exit 1", "apt-get": unknown}.items():
        program(programs, name, body)
    done = prepare(tmp_path / "prefix", packages="haproxy")
    assert done.returncode == 1
    assert "firstlight-hint: the package sources of this host do not offer it: sudo apt-get update" in done.stdout


@pytest.mark.parametrize(
    ("planned", "uid", "name"),
    [({"root": "0", "owner": "alice"}, 0, "root"), ({"root": "1", "owner": "firstlight"}, 1000, "alice")],
)
def test_a_plan_for_another_account_than_that_of_ansible_is_refused(
    programs: Path, tmp_path: Path, planned: dict[str, str], uid: int, name: str
) -> None:
    """Firstlight does not see `become` of an ansible.cfg, nor `-b`."""
    program(programs, "id", f"[ $1 = -u ] && echo {uid} || echo {name}")
    done = prepare(tmp_path / "prefix", **planned)
    assert done.returncode == 1
    assert f"firstlight-error: Ansible works as {name} on this host" in done.stdout
    assert "firstlight-hint: set ansible_become in the inventory" in done.stdout
    assert not (tmp_path / "prefix").exists()


@pytest.mark.parametrize(
    ("home", "shell", "is_noted", "expected"),
    [
        ("/home/firstlight", "/bin/bash", False, "refused"),
        ("/home/firstlight", "/bin/bash", True, "repaired"),
        ("PREFIX/home", "/bin/bash", False, "repaired"),
        ("PREFIX@chat/home", "/bin/bash", False, "repaired"),
        ("/home/firstlight", "/usr/sbin/nologin", False, "kept"),
    ],
)
def test_the_login_of_a_person_is_not_made_the_account_of_the_service(
    programs: Path, tmp_path: Path, home: str, shell: str, *, is_noted: bool, expected: str
) -> None:
    """A shell that somebody gave the account of the service is taken away again."""
    prefix = tmp_path / "prefix"
    for folder in (prefix, tmp_path / "prefix@chat"):
        folder.mkdir()
        (folder / ".firstlight").write_text("firstlight 1\n")
    if is_noted:
        (prefix / "created-users.txt").write_text("firstlight\n")
    (tmp_path / "passwd").write_text(f"firstlight:x:1001:1001::{home.replace('PREFIX', str(prefix))}:{shell}\n")
    for name, body in {
        "id": "echo 0",
        "getent": "exit 2",
        "grep": f"""for word; do shift; [ $word != /etc/passwd ] || word={tmp_path}/passwd; set -- "$@" "$word"; done
            exec {shutil.which("grep")} "$@" """,
    }.items():
        program(programs, name, body)
    done = prepare(prefix, root="1", owner="firstlight")
    text = "firstlight-error: account firstlight exists, and somebody may log in with it\n"
    assert (done.returncode, text in done.stdout) == ((1, True) if expected == "refused" else (0, False)), done
    assert ("firstlight-account: differs" in done.stdout) == (expected == "repaired")


@pytest.mark.parametrize(
    ("manager", "package"), [("apt-get", "python3.9"), ("dnf", "python3.11"), ("zypper", "python311")]
)
def test_a_host_whose_python_is_too_old_is_told_of_one_that_suffices(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, package: str
) -> None:
    for name in ("sh", "id", "mkdir", "sync", "uname"):
        (programs / name).symlink_to(shutil.which(name) or name)
    for name, body in {manager: "exit 1", "dpkg-query": "echo installed", "rpm": "exit 0", "grep": "exit 0"}.items():
        program(programs, name, body)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(
        "tests.install.scripts.script_text", lambda name: "find_python() { :; }\n" + (ROLES / name).read_text()
    )
    done = prepare(tmp_path / "prefix")
    assert done.returncode == 1
    assert f"firstlight-hint: install one: sudo {manager} install {package}\n" in done.stdout
