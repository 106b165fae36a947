"""How an environment is built on a host: the script of the role, tried alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from tests.install.conftest import Site
from tests.install.scripts import ROLES, run_sh
from tests.install.wheels import build_wheel
from verify import byte_code, manifest

pytestmark = pytest.mark.slow


def build(site: Site, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = site.variables["firstlight_environment"]
    (site.prefix / "envs").mkdir(parents=True, exist_ok=True)
    (site.prefix / "bin").mkdir(exist_ok=True)
    variables = {
        "prefix": str(site.prefix),
        "incoming": str(site.incoming),
        "digest": environment["digest"],
        "stack": "{}",
        "uv": "uv",
        "last": "",
        "python": environment["interpreter"]["path"],
        "archive": "",
        "python_version": environment["interpreter"]["version"],
        "torch": "",
        "manifest": (ROLES / "environment/files/manifest.py").read_text(),
        "warm": "",
        "checker": (ROLES / "environment/files/check_lock.py").read_text(),
        "lock_timeout_s": "1",
        "check": "0",
    }
    return run_sh("environment/files/build.sh", stdin=environment["lock"], **(variables | changes))


def test_a_missing_wheel_is_named(site: Site) -> None:
    site.send()
    (site.incoming / site.wheels[0].name).unlink()
    done = build(site)
    assert done.returncode == 1
    assert "alpha" in done.stderr
    assert not (site.environment / ".complete").exists()


def python_with_torch(folder: Path, version: str) -> Path:
    """An interpreter as this one is, with a torch of that name among its own packages."""
    here = Path(os.path.realpath(sys.executable))
    minor = "python{}.{}".format(*sys.version_info[:2])
    library = folder / "lib" / minor
    (folder / "bin").mkdir(parents=True)
    library.mkdir(parents=True)
    for entry in (Path(sys.base_prefix) / "lib" / minor).iterdir():
        if entry.name not in {"site-packages", "dist-packages"}:
            (library / entry.name).symlink_to(entry)
    for shared in (Path(sys.base_prefix) / "lib").glob("libpython*.so*"):
        (folder / "lib" / shared.name).symlink_to(shared)
    (library / "site-packages" / "torch").mkdir(parents=True)
    (library / "site-packages" / "torch" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (library / "site-packages" / "torch" / "version.py").write_text(f"__version__ = '{version}'\n")
    shutil.copy(here, folder / "bin" / minor)
    (folder / "bin" / "python3").symlink_to(minor)
    return folder / "bin" / minor


def test_the_hosts_own_torch_is_taken_over(site: Site, tmp_path: Path) -> None:
    python = python_with_torch(tmp_path / "base", "2.7.0+cu126")
    site.send()
    done = build(site, python=str(python), torch="2.7.0+cu126")
    assert done.returncode == 0, done.stderr
    checked = run_checker(site)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("shared", ["false", "true"])
def test_a_torch_of_a_virtual_environment_is_taken_over(site: Site, tmp_path: Path, shared: str) -> None:
    below = python_with_torch(tmp_path / "base", "2.8.0+cu128")
    home = tmp_path / "pytorch"
    packages = home / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"
    (packages / "torch").mkdir(parents=True)
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "version.py").write_text("__version__ = '2.7.0+cu126'\n")
    (below.parent.parent / "lib" / packages.parent.name / "site-packages" / "below.py").touch()
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(below)
    (home / "pyvenv.cfg").write_text(f"home = {below.parent}\ninclude-system-site-packages = {shared}\n")
    site.send()
    done = build(site, python=str(home / "bin" / "python"), torch="2.7.0+cu126")
    assert done.returncode == 0, done.stderr
    find = "import importlib.util, torch; print(torch.__file__, importlib.util.find_spec('below') is not None)"
    python = str(site.environment / "bin" / "python")
    seen = subprocess.run([python, "-I", "-c", find], capture_output=True, text=True, check=True).stdout
    assert seen.split() == [str(packages / "torch" / "__init__.py"), str(shared == "true")]
    checked = run_checker(site)
    assert checked.returncode == 0, checked.stderr


def test_another_torch_than_the_planned_one_is_refused(site: Site, tmp_path: Path) -> None:
    python = python_with_torch(tmp_path / "base", "2.8.0+cu128")
    site.send()
    done = build(site, python=str(python), torch="2.7.0+cu126")
    assert done.returncode == 1
    assert f"torch of {python} is 2.8.0+cu128, and the plan was made for 2.7.0+cu126" in done.stderr
    assert not (site.environment / ".complete").exists()


def run_checker(site: Site) -> subprocess.CompletedProcess[str]:
    checker = (ROLES / "environment/files/check_lock.py").read_text()
    lock = str(site.environment / "lock.txt")
    command = [str(site.environment / "bin/python"), "-I", "-c", checker, lock]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_byte_code_is_kept_beside_the_sources(site: Site) -> None:
    site.send()
    done = build(site, warm="import alpha")
    assert done.returncode == 0, done.stderr
    wait_until(lambda: bool(list(site.environment.glob("lib/python*/site-packages/**/__pycache__/*.pyc"))))


def test_what_a_server_imports_is_compiled_and_no_more(site: Site) -> None:
    site.send()
    assert build(site).returncode == 0
    (packages,) = site.environment.glob("lib/python*/site-packages")
    sources = {
        "vllm/__init__.py": "",
        "vllm/entrypoints/__init__.py": "from vllm import version",
        "vllm/entrypoints/cli/__init__.py": "",
        "vllm/entrypoints/cli/main.py": "from typing import TYPE_CHECKING\nimport web.routes as routes\nfrom ... import log\n"
        "if TYPE_CHECKING:\n    import hints\nelse:\n    import alternative\n"
        "class Command:\n    pass\ndef bench():\n    import bench_tool\n",
        "vllm/version.py": "try:\n    from . import build_number\nexcept ImportError:\n    pass",
        "vllm/build_number.py": "import torch",
        "vllm/log.py": "import json",
        "vllm/model_executor/models/other.py": "",
        "web/__init__.py": "",
        "web/routes.py": "from .parts import head, nothing",
        "web/parts/__init__.py": "nothing = None",
        "web/parts/head.py": "import broken",
        "broken.py": "print 'an old one'",
        "hints.py": "",
        "alternative.py": "",
        "bench_tool.py": "",
        "torch.py": "",
    }
    for name, text in sources.items():
        path = packages / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    warm = (ROLES / "environment/files/warm.py").read_text()
    subprocess.run([str(site.environment / "bin/python"), "-I", "-c", warm], check=True)
    compiled = {path for path in packages.rglob("*.py") if Path(cache_from_source(str(path))).exists()}
    left = {"vllm/model_executor/models/other.py", "broken.py", "hints.py", "bench_tool.py"}
    assert {str(path.relative_to(packages)) for path in compiled} & sources.keys() == sources.keys() - left
    listed = manifest.listed(site.environment / "bytecode.txt", site.environment) or {}
    assert {cache_from_source(str(path)) for path in compiled} == listed.keys()
    assert manifest.wrong_contents(listed) == {}


def test_byte_code_that_was_there_before_is_not_listed_but_removed(site: Site) -> None:
    site.send()
    assert build(site).returncode == 0
    (packages,) = site.environment.glob("lib/python*/site-packages")
    planted = Path(cache_from_source(str(packages / "alpha/__init__.py")))
    planted.parent.mkdir()
    planted.write_bytes(b"poisoned")
    warm = (ROLES / "environment/files/warm.py").read_text()
    subprocess.run([str(site.environment / "bin/python"), "-I", "-c", warm], check=True)
    assert not planted.exists()
    assert (site.environment / "bytecode.txt").read_text() == ""


def test_the_list_of_byte_code_is_made_again_where_compiling_was_cut_off(site: Site) -> None:
    site.send()
    assert build(site, warm="import os; os.kill(os.getpid(), 9)").returncode == 0
    kept = site.environment / "bytecode.txt"
    wait_until(lambda: byte_code.listing(site.environment) == "absent")
    warm = (ROLES / "environment/files/warm.py").read_text()
    assert build(site, warm=f"import time; time.sleep(1)\n{warm}").returncode == 0
    assert byte_code.listing(site.environment) == "under way"
    wait_until(kept.exists)
    assert byte_code.listing(site.environment) == "there"


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_goes_in_last_brings_nothing_with_it(site: Site) -> None:
    """A package that wants another alpha leaves the one of the lock alone."""
    wheels = site.wheels[0].parent
    site.use_wheels([*site.wheels, build_wheel(wheels, "gamma", "3.0", requires="alpha==9.9")])
    site.send()
    build_wheel(site.incoming, "alpha", "9.9")
    done = build(site, last="gamma")
    assert done.returncode == 0, done.stderr
    installed = {path.name for path in site.environment.glob("lib/python*/site-packages/*.dist-info")}
    assert {"alpha-1.0.dist-info", "gamma-3.0.dist-info"} <= installed
    assert (site.environment / ".complete").exists()


def test_what_goes_in_last_is_named_when_it_is_missing(site: Site) -> None:
    site.use_wheels([*site.wheels, build_wheel(site.wheels[0].parent, "gamma", "3.0")])
    site.send()
    next(site.incoming.glob("gamma-*.whl")).unlink()
    done = build(site, last="gamma")
    assert done.returncode == 1
    assert "firstlight-error: uv could not install gamma into environment" in done.stderr
    assert not (site.environment / ".complete").exists()


def test_an_interpreter_of_another_version_is_refused(site: Site) -> None:
    site.send()
    path = site.variables["firstlight_environment"]["interpreter"]["path"]
    done = build(site, python_version="3.99")
    assert done.returncode == 1
    assert f"firstlight-error: interpreter {path} is Python" in done.stderr
    assert "3.99" in done.stderr


def test_an_interpreter_that_was_sent_is_unpacked_under_the_prefix(site: Site) -> None:
    """Its archive has one folder with bin/python3, as uv's standalone builds have."""
    site.send()
    tree = site.folder / "archive" / "python" / "bin"
    tree.mkdir(parents=True)
    (tree / "python3").symlink_to(Path(site.variables["firstlight_environment"]["interpreter"]["path"]).resolve())
    archive = site.incoming / "cpython-test.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", site.folder / "archive", "python"], check=True)
    done = build(site, python="", archive="cpython-test.tar.gz")
    assert done.returncode == 0, done.stderr
    assert not archive.exists()
    marker = json.loads((site.environment / ".complete").read_text())
    assert marker["interpreter"] == str(site.prefix / "python" / "cpython-test" / "bin" / "python3")


def test_a_build_waits_for_one_that_a_killed_run_left_behind(site: Site) -> None:
    site.send()
    (site.prefix / "envs").mkdir(parents=True)
    holder = subprocess.Popen(["flock", str(site.prefix / "envs" / ".lock"), "sleep", "60"])
    try:
        while subprocess.run(["flock", "-n", str(site.prefix / "envs" / ".lock"), "true"], check=False).returncode == 0:
            pass
        done = build(site)
    finally:
        subprocess.run(["kill", *_children(holder.pid), str(holder.pid)], check=False)
        holder.wait()
    assert done.returncode == 1
    assert "another installation has worked on" in done.stderr


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
