"""Package files from the controller, installed on a bare Debian root that is not booted and reaches no source."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.models.facts import OperatingSystem
from provision.phases.stage import Store
from provision.phases.stage.debs import fetch_debs
from tests.fleet.package_roots import Root, bare
from tests.install.scripts import script_text

INCOMING = "/var/tmp/firstlight-0"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Root]:
    with bare(tmp_path) as path:
        yield Root(path)


def test_package_files_are_installed_even_if_an_unreachable_source_lists_them(root: Root, tmp_path: Path) -> None:
    """apt would query the source first and then read the file, which only root may read, as its unprivileged user."""
    host = OperatingSystem(id="debian", version_id="12", machine="x86_64")
    status = (root.path / "var/lib/dpkg/status").read_text()
    files = fetch_debs(["libnuma1"], status, host, store=Store(tmp_path / "cache"))
    incoming = root.path / INCOMING.lstrip("/")
    incoming.mkdir(mode=0o700)
    for file in files:
        shutil.copy(file.path, incoming / file.name)
    assert list((root.path / "var/lib/apt/lists").glob("*_Packages*")), "the source lists it"
    asked = {
        "PREFIX": "/opt/firstlight",
        "ROOT": "1",
        "OWNER": "firstlight",
        "INCOMING": INCOMING,
        "PACKAGES": "libnuma1",
        "DEBS": " ".join(file.name for file in files),
        "HIDES_HOMES": "0",
        "LOCK_TIMEOUT_S": "60",
        "CHECK": "0",
        "ARCHIVE": "",
    }
    given = (f"FIRSTLIGHT_{name}={value}" for name, value in asked.items())
    done = root.run("env", "http_proxy=http://127.0.0.1:9", *given, "sh", "-c", script_text("base/files/prepare.sh"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "firstlight-changed: packages libnuma1" in done.stdout
    assert list(root.path.glob("usr/lib/*/libnuma.so.1"))
