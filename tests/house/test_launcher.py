"""The launcher in a fresh checkout, through a symlink, from any folder, twice at once, killed, and without Python.

Interpreters, pip and uv are real. Only the lock is small (uv alone); its wheel is packed again from the
environment that runs these tests and is in a folder that pip's settings name. No network is needed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

PRODUCT = """
import json, os, sys
print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "prefix": sys.prefix, "name": __file__}))
sys.exit(7 if "seven" in sys.argv else 0)
"""


def pack_uv(folder: Path) -> tuple[str, str]:
    """A wheel of the uv that is installed here; returns its version and SHA-256."""
    found = metadata.distribution("uv")
    version = found.version
    info = f"uv-{version}.dist-info"
    rows = []
    wheel = folder / f"uv-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in found.files or ():
            source = Path(str(found.locate_file(file))).resolve()
            name = str(file)
            if source.name == "uv" and source.parent.name == "bin":
                name = f"uv-{version}.data/scripts/uv"
            if name.startswith("..") or source.suffix == ".pyc" or file.name in ("RECORD", "INSTALLER", "REQUESTED"):
                continue
            content = source.read_bytes()
            if file.name == "WHEEL":
                content = b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            rows.append((name, f"sha256={digest}", len(content)))
        record = io.StringIO()
        csv.writer(record).writerows([*rows, (f"{info}/RECORD", "", "")])
        archive.writestr(f"{info}/RECORD", record.getvalue())
    return version, hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with the wheel, and the lock that names it."""
    folder = tmp_path_factory.mktemp("wheels")
    version, digest = pack_uv(folder)
    return folder, f"uv=={version} \\\n    --hash=sha256:{digest}\n    # via firstlight (pyproject.toml)\n"


class Checkout:
    """A small checkout with the real launcher."""

    def __init__(self, folder: Path, wheels: tuple[Path, str]) -> None:
        self.folder = folder
        self.venv = folder / ".venv"
        for name in (
            "firstlight",
            "requirements/environment.sh",
            "requirements/pip_settings.py",
            "provision/catalog/index/settings.py",
            "provision/core/errors.py",
            "provision/core/grouping.py",
            "provision/core/user_path.py",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        (folder / "provision/__init__.py").touch()
        for name in ("provision/__main__.py", "tests/run.py", "docs/generate.py"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(PRODUCT, encoding="utf-8")
        self.lock(wheels[1])
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PIP_", "UV_", "VIRTUAL_ENV", "PYTHON"))
        } | {
            "PATH": os.pathsep.join(
                entry for entry in os.environ["PATH"].split(os.pathsep) if not (Path(entry) / "activate").exists()
            ),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(wheels[0]),
            "UV_CACHE_DIR": str(wheels[0] / "cache"),
        }

    def lock(self, text: str) -> None:
        for name in ("run.txt", "dev.txt"):
            (self.folder / "requirements" / name).write_text(text, encoding="utf-8")

    def start(
        self, *arguments: str, program: Path | None = None, cwd: Path | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(program or self.folder / "firstlight"), *arguments],
            cwd=cwd or self.folder,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, program: Path | None = None, cwd: Path | None = None, **variables: str) -> Ended:
        return Ended(self.start(*arguments, program=program, cwd=cwd, **variables))

    def leftovers(self) -> list[str]:
        return [path.name for path in self.folder.glob(".venv.*")]


class Ended:
    """A launcher that has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.out, self.err = process.communicate(timeout=300)
        self.code = process.returncode

    @property
    def printed(self) -> dict[str, object]:
        """Return the JSON that the product printed."""
        assert self.out, self.err
        whole: dict[str, object] = json.loads(self.out)
        return whole


@pytest.fixture
def checkout(tmp_path: Path, wheels: tuple[Path, str]) -> Checkout:
    return Checkout(tmp_path / "a checkout", wheels)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory, wheels: tuple[Path, str]) -> tuple[Checkout, Ended]:
    """A checkout after its first run; some folders and indexes that pip's settings name are missing."""
    checkout = Checkout(tmp_path_factory.mktemp("made") / "a checkout", wheels)
    ended = checkout.run(
        "probe",
        "two words",
        "",
        PIP_FIND_LINKS=f"/nonexistent/wheels {wheels[0]}",
        PIP_EXTRA_INDEX_URL="file:///nonexistent/simple",
    )
    return checkout, ended


@pytest.fixture
def made(first: tuple[Checkout, Ended]) -> Checkout:
    """A checkout whose environment exists already; tests leave it unchanged."""
    return first[0]


@pytest.fixture
def copied(made: Checkout, checkout: Checkout) -> Checkout:
    """A copy of that checkout."""
    shutil.copytree(made.venv, checkout.venv, symlinks=True)
    return checkout


def test_the_first_run_makes_the_environment_and_later_ones_keep_it(first: tuple[Checkout, Ended]) -> None:
    checkout, ended = first
    assert ended.code == 0, ended.err
    assert ended.printed["arguments"] == ["probe", "two words", ""]
    assert ended.printed["prefix"] == str(checkout.venv)
    assert "making .venv" in ended.err
    inode = checkout.venv.stat().st_ino
    again = checkout.run()
    assert (again.code, again.err) == (0, "")
    assert checkout.venv.stat().st_ino == inode
    assert checkout.leftovers() == []


def test_the_launcher_runs_through_symlinks_from_any_folder(made: Checkout, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "firstlight").symlink_to(made.folder / "firstlight")
    (tmp_path / "fl").symlink_to("bin/firstlight")
    ended = made.run(program=tmp_path / "fl", cwd=tmp_path)
    assert ended.printed["folder"] == str(tmp_path)
    assert ended.printed["name"] == str(made.folder / "provision/__main__.py")
    found = made.run(program=Path("firstlight"), cwd=tmp_path, PATH=f"{tmp_path / 'bin'}:{made.environment['PATH']}")
    assert found.code == 0, found.err


def test_the_exit_code_is_the_products(made: Checkout) -> None:
    assert made.run("seven").code == 7


def test_modules_in_the_callers_folder_are_not_imported(made: Checkout, tmp_path: Path) -> None:
    for name in ("json.py", "provision.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the wrong place')", encoding="utf-8")
    assert made.run(cwd=tmp_path).code == 0


@pytest.mark.parametrize(("command", "script"), [("test", "tests/run.py"), ("docs", "docs/generate.py")])
def test_commands_for_developers_run_their_scripts(made: Checkout, command: str, script: str) -> None:
    ended = made.run(command, "-k", "some thing")
    assert ended.printed["arguments"] == ["-k", "some thing"]
    assert ended.printed["name"] == str(made.folder / script)


def test_a_changed_lock_makes_a_new_environment_which_serves_both(copied: Checkout, wheels: tuple[Path, str]) -> None:
    checkout = copied
    inode = checkout.venv.stat().st_ino
    (checkout.folder / "requirements/dev.txt").write_text(wheels[1] + "# more\n", encoding="utf-8")
    assert checkout.run().err == ""
    assert checkout.run("test").code == 0
    assert checkout.venv.stat().st_ino != inode
    inode = checkout.venv.stat().st_ino
    assert checkout.run().err == "", "the development environment is used for the product too"
    assert checkout.venv.stat().st_ino == inode


def test_two_simultaneous_launchers_make_the_environment_once(checkout: Checkout) -> None:
    both = [checkout.start(str(number)) for number in range(2)]
    ended = [Ended(process) for process in both]
    assert [one.code for one in ended] == [0, 0], [one.err for one in ended]
    assert sum("installing what" in one.err for one in ended) == 1
    assert checkout.leftovers() == []


def test_a_folder_that_cannot_be_written_is_named(checkout: Checkout) -> None:
    (checkout.folder / ".cache" / "launcher.lock").mkdir(parents=True)
    ended = checkout.run()
    assert ended.code != 0
    assert f"{checkout.folder} cannot be written" in ended.err
    assert "clone it to one of yours" in ended.err


def test_a_launcher_killed_while_making_the_environment_leaves_nothing_broken(checkout: Checkout) -> None:
    for stage in (".venv.boot.*", ".venv.new.*"):
        process = checkout.start()
        while not list(checkout.folder.glob(stage)) and process.poll() is None:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, stage
        assert not checkout.venv.exists()
    ended = checkout.run()
    assert ended.code == 0, ended.err
    assert checkout.leftovers() == []


def test_a_wrong_hash_is_refused_and_the_old_environment_stays(copied: Checkout, wheels: tuple[Path, str]) -> None:
    checkout = copied
    inode = checkout.venv.stat().st_ino
    lines = wheels[1].splitlines()
    checkout.lock("\n".join([lines[0], "    --hash=sha256:" + "0" * 64, *lines[2:]]) + "\n")
    ended = checkout.run(UV_NO_CACHE="1")
    assert ended.code == 2
    assert ended.out == ""
    assert "error: uv could not install what requirements/run.txt locks" in ended.err
    assert "\nhint: " in ended.err
    assert checkout.venv.stat().st_ino == inode


def poor_path(folder: Path, *, uid: int, **programs: str) -> str:
    """A PATH with the tools that the launcher's shell code uses, and stubs."""
    folder.mkdir()
    for name in ("sh", "cmp", "sed", "readlink", "mkdir", "rm", "mv", "cp", "env"):
        (folder / name).symlink_to(shutil.which(name) or f"/bin/{name}")
    for name, code in {"id": f"echo {uid}", **programs}.items():
        (folder / name).write_text(f"#!/bin/sh\n{code}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return str(folder)


def test_a_bundle_is_used_if_no_index_answers(checkout: Checkout, wheels: tuple[Path, str], tmp_path: Path) -> None:
    bundle = tmp_path / "a site.bundle"
    with tarfile.open(bundle, "w") as tar:
        for wheel in wheels[0].glob("*.whl"):
            tar.add(wheel, f"controller/{wheel.name}")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        checkout.environment.pop(name)
    nowhere = "http://127.0.0.1:9/simple"
    checkout.environment |= {
        "PIP_INDEX_URL": nowhere,
        "UV_DEFAULT_INDEX": nowhere,
        "UV_CACHE_DIR": str(tmp_path / "uv"),
    }
    arguments = ["--bundle", str(bundle)]
    ended = checkout.run("provision", *arguments)
    assert ended.code == 0, ended.err
    assert ended.printed["arguments"] == ["provision", *arguments]
    assert checkout.leftovers() == []


@pytest.mark.parametrize("way", ["variable", "option", "option="])
def test_a_bundle_without_the_controllers_wheels_is_named(checkout: Checkout, tmp_path: Path, way: str) -> None:
    bundle = tmp_path / "a site.bundle"
    with tarfile.open(bundle, "w") as tar:
        tar.add(__file__, "manifest.json")
    if way == "variable":
        checkout.environment["FIRSTLIGHT_BUNDLE"] = str(bundle)
    arguments = {"variable": [], "option": ["--bundle", str(bundle)], "option=": [f"--bundle={bundle}"]}[way]
    ended = checkout.run("provision", *arguments)
    assert ended.code == 2
    assert f"error: {bundle} holds no wheels of the controller" in ended.err


def test_a_python_that_is_too_old_is_reported_with_the_command_for_root(checkout: Checkout, tmp_path: Path) -> None:
    path = poor_path(tmp_path / "bin", uid=1000, python3="exit 0", **{"apt-get": "exit 99"})
    ended = checkout.run(PATH=path)
    assert ended.code == 2
    assert ended.err.startswith("error: no Python 3.11 or later is on the PATH\n\nhint: sudo sh -c 'apt-get update && ")
    assert not checkout.venv.exists()


def test_other_distributions_get_their_own_command(checkout: Checkout, tmp_path: Path) -> None:
    ended = checkout.run(PATH=poor_path(tmp_path / "bin", uid=1000, dnf="exit 99"))
    assert ended.code == 2
    assert "hint: sudo dnf install -y " in ended.err


def test_root_installs_missing_venv_support_of_python(checkout: Checkout, tmp_path: Path) -> None:
    """As on a bare Debian: python3 is installed, ensurepip comes with another package."""
    whole = Path(sys.executable).resolve()
    marker = tmp_path / "installed"
    bare = f'case "$3" in *find_spec*) [ -e "{marker}" ] || {{ echo "no {whole}"; exit; }} ;; esac\nexec "{whole}" "$@"'
    apt = f'case "$*" in *install*) echo "$*" > "{marker}" ;; esac'
    path = poor_path(tmp_path / "bin", uid=0, python3=bare, **{"apt-get": apt})
    ended = checkout.run(PATH=path)
    assert ended.code == 0, ended.err
    assert "has no venv support; installing python3." in ended.err
    asked = marker.read_text(encoding="utf-8")
    assert "DPkg::Lock::Timeout=" in asked
    assert "-venv" in asked
