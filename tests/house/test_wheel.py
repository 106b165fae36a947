"""The Python package: built twice it has the same bytes, and its program runs outside of a checkout."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from provision.core.requirements_file import read_lock
from provision.features.bundle.product_files import product_files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path, kind: str = "wheel", source: Path = ROOT) -> Path:
    """Build a distribution with the tools of this environment.

    Args:
        folder: Where it goes.
        kind: `wheel` or `sdist`.
        source: The tree: this checkout, or an unpacked source distribution.
    """
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)],
        cwd=source,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
        check=True,
        capture_output=True,
    )
    return next(path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`firstlight` as installed; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("tool")
    subprocess.run([sys.executable, "-m", "uv", "venv", "-q", "-p", sys.executable, str(folder)], check=True)
    python = str(folder / "bin/python")
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "-p", python, str(wheel)], check=True
    )
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin/firstlight"


def test_two_builds_have_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_a_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = build(tmp_path / "source", "sdist")
    shutil.unpack_archive(source, tmp_path)
    tree = tmp_path / source.name.removesuffix(".tar.gz")
    assert build(tmp_path / "wheel", source=tree).read_bytes() == wheel.read_bytes()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_variables_of_whoever_builds_are_not_packed(tmp_path: Path, kind: str) -> None:
    tree, secret = tmp_path / "tree", "hf_Qm4Planted7Tz1Ws6Bn9"
    for name, path in product_files(ROOT):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tree / name)
    own = ["inventory/local/group_vars/all.yml", "inventory/local/host_vars/localhost.yml", "inventory/site/hosts.yml"]
    if kind == "wheel":
        own += ["inventory/example/group_vars/vault.yml"]
    for name in (*own, "playbooks/group_vars/all/vault.yml", "playbooks/host_vars/localhost.yml"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"token: {secret}\n")
    shutil.unpack_archive(
        build(tmp_path / kind, kind, tree), tmp_path / "packed", "zip" if kind == "wheel" else "gztar"
    )
    packed = [path for path in (tmp_path / "packed").rglob("*") if path.is_file()]
    assert {"plan.yml", "hosts.yml"} <= {path.name for path in packed}
    assert [path for path in packed if secret.encode() in path.read_bytes()] == []


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_the_commands_of_the_page_check_a_signed_package(wheel: Path, tmp_path: Path) -> None:
    def sh(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=False, capture_output=True, text=True)

    shutil.copy(wheel, tmp_path)
    made = "minisign -G -W -s key -p key.pub; sha256sum firstlight-* > SHA256SUMS; minisign -S -s key -m SHA256SUMS -t 'firstlight 1f2e3d'"
    assert sh(made).returncode == 0
    public = (tmp_path / "key.pub").read_text(encoding="ascii").split()[-1]
    lines = (ROOT / "docs/guides/tool.md").read_text(encoding="utf-8").splitlines()
    signature, sums = (
        next(line for line in lines if line.startswith(word)).replace("PUBLIC_KEY", public)
        for word in ("minisign -V", "sha256sum --check")
    )
    checked = sh(f"{signature} && {sums}")
    assert checked.returncode == 0, checked
    assert "firstlight 1f2e3d" in checked.stdout
    with (tmp_path / wheel.name).open("ab") as file:
        file.write(b"x")
    assert sh(sums).returncode != 0
    assert sh("sha256sum firstlight-* > SHA256SUMS").returncode == 0
    assert sh(signature).returncode != 0


def test_the_installed_program_plans_and_writes_to_its_users_folders(program: Path, tmp_path: Path) -> None:
    home = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def run(*words: str, code: int = 0) -> str:
        done = subprocess.run(
            [str(program), *words], cwd=tmp_path, env=home, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "vLLM" in run("plan", "--what-if", "8xH100")
    assert f"firstlight plan -i {tmp_path}/site" in run("init", str(tmp_path / "site")).splitlines()
    assert "exists already" in run("init", str(tmp_path / "site"), code=2)
    written = (tmp_path / "site/hosts.yml").read_text()
    assert "gpu-[1:4]:" in written
    assert f"    firstlight plan -i {tmp_path}/site\n" in written
    [page] = re.findall(r"\S+/inventory\.md", written)
    assert Path(page).read_text().startswith("# ")
    run("plan")
    assert list((tmp_path / ".local/state/firstlight/logs/queries").iterdir())
    assert "\nhint: make one: firstlight provision" in run("logs", code=2)
    assert "./firstlight" not in run("help", "--all")


def test_an_installed_product_packs_the_same_files_into_a_bundle_as_a_checkout(program: Path) -> None:
    listing = "from provision.features.bundle.product_files import product_files; print([name for name, _ in product_files()])"

    def names(python: str, **environment: str) -> set[str]:
        done = subprocess.run(
            [python, "-P", "-c", listing], env=environment, capture_output=True, text=True, check=True
        )
        return set(ast.literal_eval(done.stdout))

    tracked = {
        *subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    }
    packed = names(str(program.with_name("python")))
    assert packed & tracked == names(sys.executable, PYTHONPATH=str(ROOT)) & tracked
    assert {"firstlight", "playbooks/site.yml", "provision/__main__.py", "verify/__main__.py"} <= packed


def test_the_wheel_allows_what_the_lock_pins_in_ranges_with_two_ends(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = BytesParser().parsebytes(archive.read(name))
    ranges = metadata.get_all("Requires-Dist", [])
    assert len(ranges) > 10
    assert differences(ranges, (ROOT / "requirements/run.txt").read_text()) == []


LOCK = """\
half==1.5 ; python_full_version < "3.12" \\
    --hash=sha256:00
    # via firstlight (pyproject.toml)
half==2.0 ; python_full_version >= "3.12" \\
    --hash=sha256:00
    # via firstlight (pyproject.toml)
of-another==1.0 \\
    --hash=sha256:00
    # via shared
shared==3.0 \\
    --hash=sha256:00
    # via
    #   firstlight (pyproject.toml)
    #   half
"""


@pytest.mark.parametrize(
    ("ranges", "found"),
    [
        (("half<3,>=1.5", "shared<4,>=3.0"), []),
        (("half<2,>=1.5", "shared<4,>=3.0"), ["half 2.0 of the lock is outside of <2,>=1.5"]),
        (("half<3,>=1.5", "shared<5,>=3.1"), ["shared 3.0 of the lock is outside of <5,>=3.1"]),
        (("half<3,>=1.5", "shared>=3.0"), ["shared>=3.0 has no two ends"]),
        (("half<3,>=1.5",), ["shared 3.0 of the lock has no range"]),
        (("half<3,>=1.5", "shared<4,>=3.0", "new<2,>=1"), ["new<2,>=1 is not in the lock"]),
    ],
)
def test_a_range_that_differs_from_the_lock_is_named(ranges: tuple[str, ...], found: list[str]) -> None:
    assert differences(ranges, LOCK) == found


def differences(ranges: Iterable[str], lock: str) -> list[str]:
    """Return a line for each direct dependency of a lock outside of its range, and for each range with one end or of no such dependency.

    Args:
        ranges: Requirements, as the metadata of the wheel has them.
        lock: A requirements file of uv, whose comments tell which distributions are direct dependencies.
    """
    allowed = {requirement.name: requirement for requirement in map(Requirement, ranges)}
    entries = [entry for entry in re.split(r"^(?=\S)", lock, flags=re.MULTILINE) if "firstlight (pyproject" in entry]
    locked = [package for entry in entries for package in read_lock(entry)]
    lines = []
    for package in locked:
        if package.name not in allowed:
            lines.append(f"{package.name} {package.version} of the lock has no range")
        elif package.version not in (specifier := allowed[package.name].specifier):
            lines.append(f"{package.name} {package.version} of the lock is outside of {specifier}")
    for name, requirement in allowed.items():
        if {part.operator for part in requirement.specifier} != {">=", "<"}:
            lines.append(f"{requirement} has no two ends")
        if name not in {package.name for package in locked}:
            lines.append(f"{requirement} is not in the lock")
    return lines
