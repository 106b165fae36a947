import gzip
import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.core.models.facts import OperatingSystem
from provision.phases.stage import debs
from provision.phases.stage.debs import fetch_debs
from provision.phases.stage.wheelhouse import Store

HOST = OperatingSystem(id="debian", version_id="12", machine="x86_64")


def make_deb(folder: Path, name: str, version: str = "1.0", depends: str = "") -> str:
    """Build a real package; returns its stanza for Packages."""
    tree = folder / f"{name}-tree"
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Tests <tests@example.org>\n"
    control += (f"Depends: {depends}\n" if depends else "") + "Description: for a test\n"
    (tree / "DEBIAN/control").write_text(control)
    deb = folder / f"{name}_{version}_amd64.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(deb)], check=True, capture_output=True)
    content = deb.read_bytes()
    return f"{control}Filename: ./{deb.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"


def installed(*packages: str) -> str:
    rows = [
        f"Package: {name}\nStatus: install ok installed\nVersion: 1.0\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: x\n"
        for name in packages
    ]
    return "\n".join(rows)


@pytest.fixture
def etc_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Apt settings of a controller with one archive in a folder: compiler -> linker -> base; numa."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("this machine has no apt and dpkg-deb")
    archive = tmp_path / "archive/dists/bookworm/main/binary-amd64"
    archive.mkdir(parents=True)
    root = tmp_path / "archive"
    stanzas = [
        make_deb(root, "compiler", depends="linker (>= 1.0)"),
        make_deb(root, "linker", depends="base"),
        make_deb(root, "base"),
        make_deb(root, "numa", "2:1.0"),
    ]
    plain = "\n".join(stanzas).encode()
    (archive / "Packages").write_bytes(plain)
    (archive / "Packages.gz").write_bytes(gzip.compress(plain))
    rows = "".join(
        f" {hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_size} main/binary-amd64/{path.name}\n"
        for path in sorted(archive.iterdir())
    )
    head = "Origin: Tests\nSuite: bookworm\nCodename: bookworm\nArchitectures: amd64\nComponents: main\n"
    (root / "dists/bookworm/Release").write_text(f"{head}Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{rows}")
    folder = tmp_path / "etc"
    (folder / "sources.list.d").mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [trusted=yes] copy:{root} bookworm main\n")
    monkeypatch.setattr(debs, "ETC_APT", folder)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian", "VERSION_ID": "12"})
    return folder


def test_missing_packages_are_fetched_with_their_dependencies(store: Store, etc_apt: Path) -> None:
    files = fetch_debs(["compiler", "numa"], installed("base"), HOST, store=store)
    assert [(file.name, file.kind) for file in files] == [
        ("compiler_1.0_amd64.deb", "deb"), ("linker_1.0_amd64.deb", "deb"), ("numa_2+1.0_amd64.deb", "deb"),
    ]  # fmt: skip
    bare = fetch_debs(["compiler"], "", HOST, store=store)
    assert [file.name.split("_")[0] for file in bare] == ["base", "compiler", "linker"]


def test_nothing_is_fetched_for_installed_packages(store: Store, etc_apt: Path) -> None:
    assert fetch_debs(["base"], installed("base"), HOST, store=store) == []
    assert fetch_debs([], "", HOST, store=store) == []


def test_a_second_run_needs_no_archive(store: Store, etc_apt: Path, tmp_path: Path) -> None:
    first = fetch_debs(["compiler"], installed("base"), HOST, store=store)
    shutil.rmtree(tmp_path / "archive")
    assert fetch_debs(["compiler"], installed("base"), HOST, store=store) == first


def test_this_machine_is_not_changed(store: Store, etc_apt: Path) -> None:
    watched = [Path("/var/lib/dpkg/status"), Path("/var/lib/apt/lists"), Path("/var/cache/apt/archives")]
    before = [path.stat().st_mtime_ns for path in watched if path.exists()]
    fetch_debs(["compiler"], "", HOST, store=store)
    assert [path.stat().st_mtime_ns for path in watched if path.exists()] == before


def test_an_archive_without_a_signature_is_refused(store: Store, etc_apt: Path) -> None:
    sources = etc_apt / "sources.list"
    sources.write_text(sources.read_text().replace("[trusted=yes] ", ""))
    with pytest.raises(StageError, match="not signed"):
        fetch_debs(["compiler"], "", HOST, store=store)


def test_a_package_with_the_wrong_hash_is_refused(store: Store, etc_apt: Path, tmp_path: Path) -> None:
    deb = tmp_path / "archive/linker_1.0_amd64.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"X")
    with pytest.raises(StageError, match=r"(?i)hash sum mismatch"):
        fetch_debs(["compiler"], installed("base"), HOST, store=store)


def test_an_unknown_package_is_named(store: Store, etc_apt: Path) -> None:
    with pytest.raises(StageError, match="Unable to locate package no-such-package"):
        fetch_debs(["no-such-package"], "", HOST, store=store)


def test_another_release_than_the_controllers_is_refused_with_both_names(store: Store, etc_apt: Path) -> None:
    ubuntu = HOST.model_copy(update={"id": "ubuntu", "version_id": "22.04"})
    with pytest.raises(
        StageError, match=r"needs numa for ubuntu 22\.04, and this machine has package sources of debian 12"
    ):
        fetch_debs(["numa"], "", ubuntu, store=store)


def test_packages_that_a_bundle_lacks_are_not_fetched(store: Store, etc_apt: Path) -> None:
    with pytest.raises(StageError, match="the bundle has no numa for host") as caught:
        fetch_debs(["numa"], "", HOST, store=store, bundled=True)
    assert "none of gateways and monitoring" in (caught.value.hint or "")


def test_a_controller_without_apt_is_an_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageError, match="this machine has no apt"):
        fetch_debs(["numa"], "", HOST, store=store)
