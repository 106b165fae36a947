"""Build the Ansible collection `firstlight.kit` from these playbooks, roles and modules: `python -m playbooks.collection OUT`.

A collection has folders and names of its own: modules and actions lie in plugins/, and what is `firstlight_packages` here is `firstlight.kit.packages` there.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from string import Template

from provision import __version__

NAMESPACE, NAME = "firstlight", "kit"
PLAYBOOKS = Path(__file__).resolve().parent
ARCHIVE = f"{NAMESPACE}-{NAME}-{__version__}.tar.gz"
IGNORED = "validate-modules:missing-gplv3-license # the licence is Apache-2.0"
"""What ansible-test would find in every module."""
MODULE_KEY = re.compile(r"^( *- name: .*\n +)firstlight_(\w+:)$", re.MULTILINE)
ROLE_NAME = re.compile(r"^( *- role: |.*_role:\n +name: )(\w+)$", re.MULTILINE)


def module_in_collection(text: str) -> str:
    """Return a module with the imports that it has in the collection, or its documentation with the name."""
    imports = f"ansible_collections.{NAMESPACE}.{NAME}.plugins.module_utils."
    return text.replace("ansible.module_utils.firstlight_", imports).replace("  module: firstlight_", "  module: ", 1)


def tasks_in_collection(text: str) -> str:
    """Return tasks or plays that name modules and roles of the collection in full."""
    return ROLE_NAME.sub(rf"\1{NAMESPACE}.{NAME}.\2", MODULE_KEY.sub(rf"\1{NAMESPACE}.{NAME}.\2", text))


def lay_out(out: Path) -> Path:
    """Write the collection's files to OUT/ansible_collections, where Ansible finds it with ANSIBLE_COLLECTIONS_PATH=OUT.

    Returns:
        The collection's folder, which is written anew.
    """
    folder = out / "ansible_collections" / NAMESPACE / NAME
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PLAYBOOKS / "roles", folder / "roles", ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("roles/*/*/*.yml"):
        path.write_text(tasks_in_collection(path.read_text(encoding="utf-8")), encoding="utf-8")
    _copy(PLAYBOOKS, "*.yml", folder / "playbooks", tasks_in_collection)
    for source, target in (("action_plugins", "action"), ("library", "modules"), ("module_utils", "module_utils")):
        _copy(PLAYBOOKS / source, "*.*", folder / "plugins" / target, module_in_collection)
    for path in (PLAYBOOKS / "README.md", PLAYBOOKS.parent / "LICENSE", PLAYBOOKS.parent / "CHANGELOG.md"):
        shutil.copy(path, folder)
    (folder / "meta").mkdir()
    _fill_in("galaxy.yml", folder)
    _fill_in("runtime.yml", folder / "meta")
    (folder / "tests/sanity").mkdir(parents=True)
    ignored = folder / f"tests/sanity/ignore-{'.'.join(version('ansible-core').split('.')[:2])}.txt"
    modules = sorted(path.name for path in (folder / "plugins/modules").glob("*.py"))
    ignored.write_text("".join(f"plugins/modules/{name} {IGNORED}\n" for name in modules), encoding="utf-8")
    return folder


def _fill_in(name: str, folder: Path) -> None:
    """Write a file of the collection or of its image, from the one in templates/."""
    text = Template((PLAYBOOKS / f"templates/{name}.in").read_text(encoding="utf-8"))
    (folder / name).write_text(text.substitute(version=__version__, archive=ARCHIVE), encoding="utf-8")


def _copy(source: Path, pattern: str, target: Path, changed: Callable[[str], str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob(pattern)):
        text = changed(path.read_text(encoding="utf-8"))
        (target / path.name.removeprefix("firstlight_")).write_text(text, encoding="utf-8")


def build(out: Path) -> Path:
    """Lay the collection out, and return its archive in `out`, which `ansible-galaxy collection install` takes.

    Next to it is execution-environment.yml, which `ansible-builder create -f` takes.
    """
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    command = [str(galaxy), "collection", "build", "--force", "--output-path", str(out.resolve())]
    subprocess.run(command, cwd=lay_out(out), check=True, stdout=subprocess.DEVNULL)
    _fill_in("execution-environment.yml", out)
    return out / ARCHIVE


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the collection and its archive")
    print(build(parser.parse_args().out))
