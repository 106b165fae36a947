"""The collection `firstlight.kit`: built, installed and used with Ansible's own programs, where no checkout is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from playbooks.collection import build
from tests.install.modules import MODULES, PLAYBOOKS

pytestmark = pytest.mark.slow
PROGRAMS = Path(sys.executable).parent
GUIDE = PLAYBOOKS.parent / "docs/guides/ansible.md"
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
PLAYS = sorted(path.stem for path in PLAYBOOKS.glob("*.yml"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def site(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of somebody's own site, in which the collection is installed."""
    folder = tmp_path_factory.mktemp("site")
    ansible(folder, "galaxy", "collection", "install", "--offline", "-p", str(folder), str(archive))
    return folder


def ansible(folder: Path, program: str, *words: str, collections: Path | None = None) -> str:
    """Run a program of Ansible in a folder, and return what it printed; it sees the collections of that folder, or of another."""
    name = f"ansible-{program}" if program else "ansible"
    done = subprocess.run(
        [str(PROGRAMS / name), *words],
        cwd=folder,
        env={
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_COLLECTIONS_PATH": str(collections or folder),
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_all_modules_and_roles_are_documented(site: Path) -> None:
    roles = ansible(site, "doc", "-t", "role", "-l", "firstlight.kit")
    assert [line for line in roles.splitlines() if not line.startswith(" ")] == [
        f"firstlight.kit.{name}:" for name in ROLES
    ]
    names = [f"firstlight.kit.{name.removeprefix('firstlight_')}" for name in MODULES]
    assert ansible(site, "doc", *names).count("\nOPTIONS") == len(names)


def test_all_playbooks_find_their_roles_and_modules(site: Path) -> None:
    plays = [f"firstlight.kit.{name}" for name in PLAYS]
    printed = ansible(site, "playbook", "-i", "localhost,", "--syntax-check", *plays)
    assert printed.count("playbook: ") == len(plays)


def test_a_module_runs_with_its_code(site: Path, tmp_path: Path) -> None:
    folders = [{"name": "", "mode": "755"}, {"name": "envs", "mode": "755"}]
    arguments = json.dumps({"prefix": str(tmp_path / "prefix"), "folders": folders, "tools": {}})
    words = ("localhost", "-c", "local", "-m", "firstlight.kit.layout", "-a", arguments)
    assert "CHANGED" in ansible(site, "", *words)
    assert (tmp_path / "prefix/envs").is_dir()
    assert "SUCCESS" in ansible(site, "", *words)


@pytest.mark.long(seconds=60)
def test_the_collection_passes_the_linter(site: Path) -> None:
    words = ("--offline", "--strict", "--profile", "production", "-c", os.devnull)
    # No repository of the product is public yet.
    ansible(
        site / "ansible_collections/firstlight/kit", "lint", *words, "-x", "galaxy[no-repository]", collections=site
    )


def test_each_command_of_the_guide_is_accepted_by_ansible(archive: Path, tmp_path: Path) -> None:
    section = GUIDE.read_text().partition("## Roles and modules as a collection")[2].partition("\n## ")[0]
    [play] = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "drivers.yml").write_text(play)
    # A group without hosts: what the roles do is tested on hosts (tests/fleet/test_collection.py).
    (tmp_path / "inventory").write_text("[gpu]\n")
    planned = tmp_path / "logs/latest/install/hosts.yml"
    planned.parent.mkdir(parents=True)
    planned.write_text("all: {hosts: {}}\n")
    built, *commands = "".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL)).splitlines()
    assert built == ".venv/bin/python -m playbooks.collection build/collection"
    (tmp_path / "build").mkdir()
    (tmp_path / "build/collection").symlink_to(archive.parent)
    printed = [ansible(tmp_path, *shell_words(command.removeprefix("ansible-"), tmp_path)) for command in commands]
    assert "was installed successfully" in printed[0]
    assert len(printed) == 6


def shell_words(command: str, folder: Path) -> list[str]:
    """Return the words of a command, file names with `*` replaced by those that a shell finds in the folder."""
    words = shlex.split(command)
    return [found for word in words for found in (sorted(map(str, folder.glob(word))) if "*" in word else [word])]
