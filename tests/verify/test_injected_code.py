"""Files and variables that could make the interpreter load code that was not installed."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.verify.test_installed_files import COMPILE, Environment
from verify.binaries import manifest as byte_code
from verify.binaries.manifest import listed
from verify.checks.libraries import files as injected
from verify.records import CheckContext, CheckResult
from verify.serving.service import Service


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    made = Environment(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(made.home))
    return made


def check(environment: Environment) -> CheckResult:
    return injected.injected(CheckContext(prefix=environment.prefix))


def link_to_code(home: Path) -> Path:
    (home / "lib/evil").symlink_to("/tmp")
    return home / "lib/evil"


def byte_code_without_source(home: Path) -> Path:
    source = written(home / "lib/gone.py", "LIGHT = 3\n")
    made = Path(subprocess.check_output([sys.executable, "-c", COMPILE, source], text=True).strip())
    source.unlink()
    return made


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


PLANTS: dict[str, Callable[[Path], Path]] = {
    "stray.pth": lambda home: written(home / "lib/stray.pth", "import os\n"),
    "sitecustomize": lambda home: written(home / "lib/sitecustomize.py", "import torch\n"),
    "shadow": lambda home: written(home / "lib/lamp/__init__.py", ""),
    "link to code": link_to_code,
    "byte code without source": byte_code_without_source,
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_file_that_is_in_no_wheel_is_named_and_a_new_environment_lacks_it(
    environment: Environment, plant: str
) -> None:
    path = PLANTS[plant](environment.home)
    outcome = check(environment)
    assert outcome.status == "fail"
    assert outcome.reason.startswith(f"{path}: ")
    assert outcome.remedy == injected.REBUILD
    assert len(outcome.evidence["in the environment"]) == 1


def test_a_file_without_code_is_a_warning_and_no_damage(environment: Environment) -> None:
    written(environment.home / "lib/cache.json", "{}")
    outcome = check(environment)
    assert (outcome.status, outcome.evidence["in the environment"]) == ("warn", [])
    PLANTS["shadow"](environment.home)
    assert check(environment).status == "fail"


def test_byte_code_of_an_installed_source_is_no_injected_code(environment: Environment) -> None:
    """As left by a command that an administrator runs with the environment's Python."""
    environment.compiled.unlink()
    environment.list("bytecode.txt")
    subprocess.run([sys.executable, "-c", COMPILE, environment.module], check=True, capture_output=True)
    assert environment.compiled.exists()
    assert check(environment).status == "ok"


def test_without_a_manifest_unlisted_files_cannot_be_found(environment: Environment) -> None:
    (environment.home / "manifest.txt").unlink()
    assert "without a manifest, unlisted files cannot be found" in check(environment).reason


def test_a_module_in_the_service_s_working_folder_is_named(environment: Environment) -> None:
    (environment.prefix / "torch.py").touch()
    outcome = check(environment)
    assert outcome.reason == f"{environment.prefix}/torch.py: it shadows a module of that name in the service"
    assert outcome.evidence["in the environment"] == []


def test_modules_that_python_imports_at_each_start_are_named_unless_they_belong_to_the_distribution(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "lib"
    module = written(folder / "sitecustomize.py", "import apport\n")
    status = tmp_path / "status"
    md5 = hashlib.md5(module.read_bytes()).hexdigest()
    status.write_text(f"Package: libpython\nConffiles:\n {module} {md5}\nDescription: x\n")
    assert injected.of_distribution(module, status)
    module.write_text("import torch\n")
    assert not injected.of_distribution(module, status)
    assert not injected.of_distribution(module, tmp_path / "absent")
    (finding,) = injected.at_start([folder, tmp_path / "empty"])
    assert finding.text == f"{module}: Python imports it at each start"
    (folder / "usercustomize").mkdir()
    assert len(list(injected.at_start([folder]))) == 2


def test_the_folders_of_this_python_are_searched_and_have_nothing_unknown() -> None:
    folders = injected.search_path(Path(sys.prefix).resolve())
    assert Path(os.__file__).resolve().parent in folders
    assert list(injected.at_start(folders)) == []


def test_libraries_that_every_process_loads_are_a_warning(tmp_path: Path) -> None:
    preload = written(tmp_path / "ld.so.preload", "# ours\n/opt/agent.so\n")
    (finding,) = injected.preloaded(preload)
    assert (finding.text, finding.status) == (f"{preload}: every process loads /opt/agent.so", "warn")
    assert list(injected.preloaded(tmp_path / "absent")) == []
    padded = written(tmp_path / "padded", "#" * (1 << 17) + "\n/opt/agent.so\n")
    assert len(list(injected.preloaded(padded))) == 1


@pytest.mark.parametrize(
    ("name", "value", "is_found"),
    [
        ("PYTHONPATH", "/srv/hijack", True),
        ("PYTHONPATH", "", False),
        ("PYTHONSTARTUP", "/srv/x.py", True),
        ("PYTHONHASHSEED", "0", False),
        ("PYTHONDONTWRITEBYTECODE", "1", False),
        ("LD_PRELOAD", "/srv/hook.so", True),
        ("LD_PRELOAD", "{library}", False),
        ("LD_PRELOAD", "{library}:/srv/hook.so", True),
        ("LD_AUDIT", "/srv/hook.so", True),
        ("LD_PRELOAD", "/planned.so", False),
        ("HOME", "/opt/firstlight/cache", False),
    ],
)
def test_variables_that_inject_code_are_found(
    environment: Environment, name: str, value: str, *, is_found: bool
) -> None:
    known = listed(environment.home / "manifest.txt", environment.home) or {}
    value = value.format(library=environment.library)
    found = injected.injecting({name: value}, {"LD_PRELOAD": "/planned.so"}, known, is_isolated=False)
    assert bool(list(found)) is is_found


@pytest.fixture
def served(environment: Environment) -> Iterator[CheckContext]:
    """A running process with a folder of modules in its variables, like that of the environment's service."""
    release = environment.prefix / "releases" / "r1"
    release.mkdir(parents=True)
    (release / "release.json").write_text('{"service": {"name": "a.service", "supervisor": "systemd"}}')
    (release / "environment").symlink_to("../../envs/ab12")
    (environment.prefix / "current").symlink_to("releases/r1/environment")
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={"PYTHONPATH": "/srv/modules"}) as process:
        yield CheckContext(prefix=environment.prefix, service=Service(environment.prefix, {}, process.pid))


def test_modules_in_the_variables_of_the_service_are_a_finding(served: CheckContext) -> None:
    outcome = injected.injected(served)
    assert outcome.status == "fail"
    assert "PYTHONPATH=/srv/modules: set in process" in outcome.reason


def test_processes_of_a_replaced_service_do_not_belong_to_a_new_environment(served: CheckContext) -> None:
    anew = replace(served, expect={"serve_follows": True})
    assert injected.injected(anew).status == "ok"
    assert served.prefix
    (served.prefix / "current").unlink()
    (served.prefix / "current").symlink_to("envs/former")
    assert injected.injected(served).status == "ok"


def test_an_isolated_python_reads_none_of_its_variables() -> None:
    both = {"PYTHONPATH": "/srv/x", "LD_PRELOAD": "/srv/hook.so"}
    assert list(injected.injecting(both, {}, (), is_isolated=True)) == [("LD_PRELOAD", "/srv/hook.so")]


def test_byte_code_during_compilation_is_no_injected_code(environment: Environment) -> None:
    (environment.home / byte_code.BYTE_CODE_LIST).unlink()
    environment.compiled.write_bytes(b"half")
    half_written = environment.compiled.with_name(f"{environment.compiled.name}.140136515334224")
    half_written.write_bytes(b"half")
    assert check(environment).status == "ok"
    environment.compiled.unlink()
    environment.list(byte_code.BYTE_CODE_LIST)
    half_written.write_bytes(b"what a killed process left")
    assert check(environment).status == "warn"
