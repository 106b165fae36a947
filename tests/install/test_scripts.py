"""What the roles run on a host, tried alone: the same files, the same input that the tasks give them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from tests.install.conftest import Site
from tests.install.wheels import build_wheel

ROLES = Path(__file__).parents[2] / "playbooks" / "roles"


def script_text(script: str) -> str:
    """A script as its task sends it: what comes before a Python is there brings its own way to find one."""
    finder = (ROLES / "base/files/find_python.sh").read_text() if script.startswith("base/files/prepare") else ""
    return finder + (ROLES / script).read_text()


def run_sh(script: str, *, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(Path.home())}
    environment |= {f"FIRSTLIGHT_{key.upper()}": value for key, value in variables.items()}
    text = script_text(script)
    return subprocess.run(["sh", "-c", text], input=stdin, capture_output=True, text=True, check=False, env=environment)


def run_python(script: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    text = (ROLES / script).read_text()
    return subprocess.run(
        [sys.executable, "-I", "-c", text, *arguments], input=stdin, capture_output=True, text=True, check=False
    )


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
        "warm": "",
        "checker": (ROLES / "environment/files/check_lock.py").read_text(),
        "lock_timeout_s": "1",
        "check": "0",
    }
    return run_sh("environment/files/build.sh", stdin=environment["lock"], **(variables | changes))


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


def remove(prefix: str, **changes: str) -> subprocess.CompletedProcess[str]:
    variables = {"prefix": prefix, "incoming": "", "remove_packages": "0", "check": "0"}
    return run_sh("undo/files/remove.sh", **(variables | changes))


def test_every_shell_script_is_sound() -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed on this machine")
    scripts = [str(path) for path in ROLES.rglob("*.sh")]
    done = subprocess.run([checker, "-s", "sh", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


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
    command = [str(site.environment / "bin/python"), "-I", "-c", checker, lock, "names"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_byte_code_is_kept_beside_the_sources(site: Site) -> None:
    site.send()
    done = build(site, warm="import alpha")
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 60
    while not list(site.environment.glob("lib/python*/site-packages/**/__pycache__/*.pyc")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


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


def test_an_environment_without_these_packages_has_nothing_to_compile() -> None:
    done = run_python("environment/files/warm.py")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


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


def test_a_damaged_file_of_a_distribution_is_seen(site: Site) -> None:
    site.send()
    assert build(site).returncode == 0
    module = next(site.environment.glob("lib/python*/site-packages/alpha/__init__.py"))
    module.unlink()
    module.write_text("")
    checker = (ROLES / "environment/files/check_lock.py").read_text()
    command = [
        str(site.environment / "bin" / "python"),
        "-I",
        "-c",
        checker,
        str(site.environment / "lock.txt"),
        "files",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "alpha/__init__.py has 0 bytes, not" in done.stderr


def test_a_prefix_with_other_files_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = prepare(str(tmp_path))
    assert done.returncode == 1
    assert f"prefix {tmp_path} holds files that are not of this product: thesis.tex" in done.stdout
    assert "firstlight_prefix" in done.stdout


def test_a_prefix_that_a_run_holds_is_taken(tmp_path: Path) -> None:
    """The pipeline notes who holds a host before anything is installed there."""
    (tmp_path / "lock.json").write_text("{}")
    assert prepare(str(tmp_path)).returncode == 0
    assert (tmp_path / ".firstlight").read_text() == "firstlight 1\n"


def test_a_prepared_host_needs_nothing(tmp_path: Path) -> None:
    assert "firstlight-changed:" in prepare(str(tmp_path)).stdout
    again = prepare(str(tmp_path))
    assert "firstlight-changed:" not in again.stdout
    assert "firstlight-python: /" in again.stdout


def test_a_missing_package_is_refused_where_nobody_can_install_it(tmp_path: Path) -> None:
    """A package manager that knows nothing, and a user who is not root."""
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


def test_incoming_is_removed_only_where_this_product_makes_it(tmp_path: Path) -> None:
    remove(str(tmp_path / "absent"), incoming=str(tmp_path))
    assert tmp_path.exists()


def take(site: Site, files: list[dict[str, Any]], mode: str = "take") -> subprocess.CompletedProcess[str]:
    folder = str(site.prefix / "models" / "mine")
    return run_python("model/files/take_files.py", mode, str(site.incoming), folder, stdin=json.dumps(files))


def test_model_files_are_moved_once_with_their_hashes_checked(site: Site) -> None:
    content = b'{"model_type": "llama"}'
    files = [{"name": "config.json", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}]
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(content)
    assert json.loads(take(site, files, "look").stdout)["changed"] == ["config.json"]
    assert json.loads(take(site, files).stdout)["changed"] == ["config.json"]
    assert (site.prefix / "models" / "mine" / "config.json").read_bytes() == content
    assert not (site.incoming / "config.json").exists()
    assert json.loads(take(site, files).stdout)["changed"] == []


def test_a_model_file_with_another_hash_is_refused(site: Site) -> None:
    site.incoming.mkdir(parents=True)
    (site.incoming / "config.json").write_bytes(b"{}")
    done = take(site, [{"name": "config.json", "sha256": "0" * 64, "size": 2}])
    assert done.returncode == 1
    assert f"config.json has SHA-256 {hashlib.sha256(b'{}').hexdigest()}, not {'0' * 64}" in done.stderr
    assert not (site.prefix / "models" / "mine" / "config.json").exists()


def test_a_file_whose_move_was_cut_off_is_taken_up(site: Site) -> None:
    folder = site.prefix / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json.part").write_bytes(b"{}")
    done = take(site, [{"name": "config.json", "sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2}])
    assert done.returncode == 0, done.stderr
    assert (folder / "config.json").read_bytes() == b"{}"
