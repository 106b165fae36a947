"""Package files from the controller, installed on a bare Debian root that is not booted and reaches no source."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from provision.core.models.facts import OperatingSystem
from provision.phases.stage import Store
from provision.phases.stage.debs import fetch_debs
from tests.fleet.fixtures import require_hosts
from tests.fleet.machine import Machine
from tests.fleet.root import bare_root

FILES = Path(__file__).parents[2] / "playbooks/roles/base/files"
INCOMING = "/var/tmp/firstlight-0"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    require_hosts()
    machine = Machine("debs", tmp_path / "root")
    machine.mount(bare_root())
    yield machine.root
    machine.remove()


def test_package_files_are_installed_even_if_an_unreachable_source_lists_them(root: Path, tmp_path: Path) -> None:
    """apt would query the source first and then read the file, which only root may read, as its unprivileged user."""
    host = OperatingSystem(id="debian", version_id="12", machine="x86_64")
    status = (root / "var/lib/dpkg/status").read_text()
    files = fetch_debs(["libnuma1"], status, host, store=Store(tmp_path / "cache"))
    incoming = root / INCOMING.lstrip("/")
    incoming.mkdir(mode=0o700)
    for file in files:
        shutil.copy(file.path, incoming / file.name)
    assert list((root / "var/lib/apt/lists").glob("*_Packages*")), "the source lists it"
    asked = {
        "PREFIX": "/opt/firstlight",
        "ROOT": "1",
        "OWNER": "firstlight",
        "INCOMING": INCOMING,
        "PACKAGES": "libnuma1",
        "DEBS": " ".join(file.name for file in files),
        "LOCK_TIMEOUT_S": "60",
        "CHECK": "0",
        "ARCHIVE": "",
    }
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "http_proxy": "http://127.0.0.1:9"}
    environment |= {f"FIRSTLIGHT_{name}": value for name, value in asked.items()}
    script = (FILES / "find_python.sh").read_text() + "\n" + (FILES / "prepare.sh").read_text()
    done = subprocess.run(
        ["chroot", str(root), "sh", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "firstlight-changed: packages libnuma1" in done.stdout
    assert list(root.glob("usr/lib/*/libnuma.so.1"))
