"""The modules of playbooks/library, run alone inside Ansible's own module code, as on a host."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PLAYBOOKS = Path(__file__).parents[2] / "playbooks"
LIBRARY = PLAYBOOKS / "library"
MODULES = sorted(path.stem for path in LIBRARY.glob("*.py"))

LAUNCHER = """\
import runpy, sys
import ansible.module_utils
utils, module = sys.argv[1:]
ansible.module_utils.__path__.append(utils)
sys.argv[1:] = []
runpy.run_path(module, run_name="__main__")
"""


def start_module(
    name: str,
    *,
    check: bool = False,
    diff: bool = False,
    program: Sequence[str] = (sys.executable,),
    playbooks: Path = PLAYBOOKS,
    **parameters: Any,
) -> subprocess.Popen[str]:
    """Start a module; it prints its result.

    `program` is a Python, and `playbooks` where it finds the modules.
    """
    arguments = {**parameters, "_ansible_check_mode": check, "_ansible_diff": diff}
    utils, module = playbooks / "module_utils", playbooks / "library" / f"{name}.py"
    command = [*program, "-c", LAUNCHER, str(utils), str(module)]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdin:
        json.dump({"ANSIBLE_MODULE_ARGS": arguments}, stdin)
        stdin.seek(0)
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run_module(name: str, **parameters: Any) -> dict[str, Any]:
    """Run a module as `start_module` does, and return its result; `failed` is there where it failed."""
    out, err = start_module(name, **parameters).communicate()
    assert out, err
    result: dict[str, Any] = json.loads(out)
    return result


def documented(name: str) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """A module's documentation, examples and returned values as Ansible reads them."""
    # Imported here: Ansible costs half a second, and most users of this module only run modules.
    from ansible.plugins.loader import fragment_loader
    from ansible.utils.plugin_docs import get_docstring

    document, examples, returned, _ = get_docstring(str(LIBRARY / f"{name}.yml"), fragment_loader, is_module=True)
    return dict(document), examples, returned or {}


def documentation(name: str) -> dict[str, Any]:
    """A module's documentation as Ansible reads it."""
    return documented(name)[0]


def copy_modules(folder: Path) -> None:
    """Copy the modules and the code around them into a folder, for a Python that has no Ansible (PYTHONPATH)."""
    import ansible

    source, unused = Path(ansible.__file__).parent, shutil.ignore_patterns("__pycache__", "powershell", "csharp")
    shutil.copytree(source / "module_utils", folder / "ansible/module_utils", ignore=unused)
    # The text that Ansible writes there when it sends a module.
    (folder / "ansible/__init__.py").write_text(f'__version__ = "{ansible.__version__}"\n__author__ = "Ansible"\n')
    for name in ("library", "module_utils"):
        shutil.copytree(PLAYBOOKS / name, folder / name, ignore=unused)
