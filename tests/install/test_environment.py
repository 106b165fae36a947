"""Building an environment on a host."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from tests.install.conftest import Site
from tests.install.modules import run_module, start_module
from tests.install.scripts import ROLES
from tests.install.wheels import build_wheel
from tests.waiting import wait_until
from verify.binaries import manifest

pytestmark = pytest.mark.slow
WAIT = """\
import pathlib, time
ends = time.monotonic() + 600
while time.monotonic() < ends and not pathlib.Path({path!r}).exists():
    time.sleep(0.05)
"""


def parameters(site: Site, **changes: Any) -> dict[str, Any]:
    """Return the module's parameters as the role gives them, with changes of the interpreter; nothing is compiled."""
    environment = site.variables["firstlight_environment"]
    for name in ("envs", "bin"):
        (site.prefix / name).mkdir(parents=True, exist_ok=True)
    programs = {"manifest": program("manifest"), "warm": changes.pop("warm", "")}
    wanted = {**environment, "uv": changes.pop("uv", "uv"), "last": changes.pop("last", [])}
    return {
        "prefix": str(site.prefix),
        "incoming": str(site.incoming),
        "programs": programs,
        "lock_timeout_s": 1,
        "environment": {**wanted, "interpreter": {**environment["interpreter"], **changes}},
    }


def program(name: str) -> str:
    return (ROLES / f"environment/files/{name}.py").read_text()


def build(site: Site, *, check: bool = False, **changes: Any) -> dict[str, Any]:
    return run_module("firstlight_environment", check=check, **parameters(site, **changes))


def built(site: Site, **changes: Any) -> None:
    done = build(site, **changes)
    assert "failed" not in done, done


def failure(site: Site, **changes: Any) -> str:
    """Return the message of a build that fails and leaves no complete environment."""
    done = build(site, **changes)
    assert done["failed"] is True, done
    assert not (site.environment / ".complete").exists()
    return str(done["msg"])


def wait_for_removal(site: Site) -> None:
    """Wait until no cache of a build is left; they are removed in the background."""
    wait_until(lambda: not list((site.prefix / "envs").glob(".cache.*")))


def compile_all(site: Site) -> None:
    """Compile the modules of a server, and list their byte code."""
    subprocess.run([str(site.environment / "bin/python"), "-I", "-c", program("warm")], check=True)


def test_a_missing_wheel_is_named(site: Site) -> None:
    site.send()
    (site.incoming / site.wheels[0].name).unlink()
    done = build(site)
    assert done["msg"] == f"uv could not install the lock of environment {site.environment.name}"
    assert "alpha" in done["stderr"]
    assert not (site.environment / ".complete").exists()


def test_a_build_is_predicted_made_and_not_repeated(site: Site) -> None:
    site.send()
    assert build(site, check=True)["changed"]
    assert not site.environment.exists()
    done = build(site)
    assert (done["changed"], done["paths"]) == (True, [str(site.environment)])
    assert not list(site.incoming.glob("*.whl"))
    wait_for_removal(site)
    assert not [path for path in site.prefix.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    for check in (True, False):
        done = build(site, check=check)
        assert (done["changed"], done["paths"]) == (False, [])


@pytest.mark.parametrize("damage", [".complete", "lock.txt", "bin/python"])
def test_an_incomplete_environment_is_built_again(site: Site, damage: str) -> None:
    site.send()
    built(site)
    package = next(site.environment.glob("lib/python*/site-packages/alpha"))
    shutil.rmtree(package)
    (site.environment / damage).unlink()
    site.send()
    assert build(site)["changed"]
    assert (site.environment / damage).exists()
    assert (package / "__init__.py").exists(), "nothing of the damaged one is kept"


def test_the_cache_of_a_build_that_a_power_cut_left_is_removed_by_the_next_run(site: Site) -> None:
    site.send()
    built(site)
    left = site.prefix / "envs" / ".cache.left"
    (left / "archive").mkdir(parents=True)
    assert not build(site)["changed"]
    wait_for_removal(site)


def python_with_torch(folder: Path, version: str) -> Path:
    """Make an interpreter like this one that has a torch of that version among its own packages."""
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


def test_the_hosts_own_torch_is_used(site: Site, tmp_path: Path) -> None:
    python = python_with_torch(tmp_path / "base", "2.7.0+cu126")
    site.send()
    built(site, path=str(python), torch="2.7.0+cu126")


@pytest.mark.parametrize("shared", ["false", "true"])
def test_a_torch_of_a_virtual_environment_is_used(site: Site, tmp_path: Path, shared: str) -> None:
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
    built(site, path=str(home / "bin" / "python"), torch="2.7.0+cu126")
    find = "import importlib.util, torch; print(torch.__file__, importlib.util.find_spec('below') is not None)"
    python = str(site.environment / "bin" / "python")
    seen = subprocess.run([python, "-I", "-c", find], capture_output=True, text=True, check=True).stdout
    assert seen.split() == [str(packages / "torch" / "__init__.py"), str(shared == "true")]


def test_byte_code_is_stored_next_to_the_sources(site: Site) -> None:
    site.send()
    built(site, warm="import alpha")
    wait_until(lambda: bool(list(site.environment.glob("lib/python*/site-packages/**/__pycache__/*.pyc"))))


def test_only_modules_that_a_server_imports_are_compiled(site: Site) -> None:
    site.send()
    built(site)
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
    compile_all(site)
    compiled = {path for path in packages.rglob("*.py") if Path(cache_from_source(str(path))).exists()}
    left = {"vllm/model_executor/models/other.py", "broken.py", "hints.py", "bench_tool.py"}
    assert {str(path.relative_to(packages)) for path in compiled} & sources.keys() == sources.keys() - left
    listed = manifest.listed(site.environment / "bytecode.txt", site.environment) or {}
    assert {cache_from_source(str(path)) for path in compiled} == listed.keys()
    assert manifest.compare(listed, site.environment, None, manifest.STAMPS, whole=True).wrong == {}


def test_earlier_byte_code_is_removed_and_not_listed(site: Site) -> None:
    site.send()
    built(site)
    (packages,) = site.environment.glob("lib/python*/site-packages")
    planted = Path(cache_from_source(str(packages / "alpha/__init__.py")))
    planted.parent.mkdir()
    planted.write_bytes(b"poisoned")
    compile_all(site)
    assert not planted.exists()
    assert (site.environment / "bytecode.txt").read_text() == ""


def test_the_list_of_byte_code_is_made_again_after_an_interrupted_compilation(site: Site) -> None:
    site.send()
    built(site, warm="import os; os.kill(os.getpid(), 9)")
    kept = site.environment / "bytecode.txt"
    wait_until(lambda: manifest.listing(site.environment) == "absent")
    may_go_on = site.folder / "may-go-on"
    built(site, warm=WAIT.format(path=str(may_go_on)) + program("warm"))
    assert manifest.listing(site.environment) == "under way"
    may_go_on.touch()
    wait_until(kept.exists)
    assert manifest.listing(site.environment) == "there"


def test_the_package_installed_last_installs_no_dependencies(site: Site) -> None:
    """A package that requires another alpha does not change the one of the lock."""
    wheels = site.wheels[0].parent
    site.use_wheels([*site.wheels, build_wheel(wheels, "gamma", "3.0", requires="alpha==9.9")])
    site.send()
    build_wheel(site.incoming, "alpha", "9.9")
    built(site, last=["gamma"])
    installed = {path.name for path in site.environment.glob("lib/python*/site-packages/*.dist-info")}
    assert {"alpha-1.0.dist-info", "gamma-3.0.dist-info"} <= installed
    assert (site.environment / ".complete").exists()


def test_a_missing_package_to_install_last_is_named(site: Site) -> None:
    site.use_wheels([*site.wheels, build_wheel(site.wheels[0].parent, "gamma", "3.0")])
    site.send()
    next(site.incoming.glob("gamma-*.whl")).unlink()
    text = failure(site, last=["gamma"])
    assert text == f"uv could not install gamma into environment {site.environment.name}"


def test_a_sent_interpreter_is_unpacked_under_the_prefix(site: Site) -> None:
    """Its archive has one folder with bin/python3, like uv's standalone builds."""
    site.send()
    tree = site.folder / "archive" / "python" / "bin"
    tree.mkdir(parents=True)
    (tree / "python3").symlink_to(Path(site.variables["firstlight_environment"]["interpreter"]["path"]).resolve())
    archive = site.incoming / "cpython-test.tar.gz"
    subprocess.run(["tar", "-czf", archive, "-C", site.folder / "archive", "python"], check=True)
    built(site, path="", archive="cpython-test.tar.gz")
    assert not archive.exists()
    marker = json.loads((site.environment / ".complete").read_text())
    assert marker["interpreter"] == str(site.prefix / "python" / "cpython-test" / "bin" / "python3")


def test_a_build_waits_for_the_build_of_a_killed_run(site: Site) -> None:
    """The uv of the killed run is still running; this one reports that, and runs until the test has seen both."""
    site.send()
    started, may_end = site.folder / "started", site.folder / "may-end"
    slow = site.incoming / "slow-uv"
    slow.write_text(f"#!/bin/sh\ntouch {started}\nwhile [ ! -e {may_end} ]; do sleep 0.1; done\n")
    process = start_module("firstlight_environment", **parameters(site, uv="slow-uv"))
    try:
        wait_until(started.exists)
        process.kill()
        process.communicate()
        text = failure(site)
        assert text == f"another installation has worked on {site.prefix}/envs for more than 1 s"
    finally:
        may_end.touch()
        process.kill()
        process.communicate()
    wait_until(lambda: "failed" not in build(site))
    assert (site.environment / ".complete").exists()
