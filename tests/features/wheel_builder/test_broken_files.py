"""Damaged wheels and sdists, and build hosts that send unknown output: each is an error with its name, none a crash."""

import io
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import Mock

import pytest

from provision.core.errors import StageError
from provision.core.models.staged import StagedFile
from provision.features.wheel_builder.build import build_requirements
from provision.features.wheel_builder.build_host import BuildHost, BuildRequest
from provision.fleet.ssh.process import Channel
from provision.fleet.ssh.session import Session
from provision.phases.stage.extension import read_extension

NAME = "sample-1.0-py3-none-any.whl"


def wheel(folder: Path, metadata: str) -> Path:
    path = folder / NAME
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("sample-1.0.dist-info/METADATA", metadata)
    return path


def sdist(folder: Path, pyproject: str) -> Path:
    path = folder / "sample-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        entry = tarfile.TarInfo("sample-1.0/pyproject.toml")
        content = pyproject.encode()
        entry.size = len(content)
        packed.addfile(entry, io.BytesIO(content))
    return path


def test_an_invalid_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=f"`{NAME}` is not a valid wheel: Invalid version: 'newest'"):
        read_extension(wheel(tmp_path, "Name: sample\nVersion: newest\n"))


def test_a_wheel_with_damaged_bytes_is_named(tmp_path: Path) -> None:
    path = wheel(tmp_path, "Name: sample\nVersion: 1.0\n" + "Requires-Dist: einops\n" * 50)
    content = bytearray(path.read_bytes())
    start = content.index(b"METADATA") + len("METADATA")
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(StageError, match=f"`{NAME}` is not a valid wheel"):
        read_extension(path)


def test_what_a_build_requires_is_read_without_torch(tmp_path: Path) -> None:
    path = sdist(tmp_path, '[build-system]\nrequires = ["setuptools>=70", "Torch>=2", "ninja"]\n')
    assert build_requirements(path) == ["setuptools>=70", "ninja"]


@pytest.mark.parametrize(
    "pyproject",
    ["[build-system", '[build-system]\nrequires = ["to rch"]', "build-system = 3", "[build-system]\nrequires = 3"],
)
def test_an_invalid_pyproject_is_named(tmp_path: Path, pyproject: str) -> None:
    with pytest.raises(StageError, match=r"`sample-1\.0\.tar\.gz` is not a valid sdist"):
        build_requirements(sdist(tmp_path, pyproject))


def test_a_truncated_sdist_is_named(tmp_path: Path) -> None:
    path = sdist(tmp_path, "# " + "".join(chr(33 + (place * place) % 90) for place in range(20_000)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StageError, match=r"`sample-1\.0\.tar\.gz` is not a valid sdist"):
        build_requirements(path)


@pytest.mark.parametrize("greeting", ["Welcome to node 7!\n", '"hello"\n', '{"greeting": "hello"}\n'])
def test_a_build_host_whose_shell_prints_a_greeting_is_named(greeting: str) -> None:
    channel = Mock(spec=Channel)
    channel.readline.return_value = greeting
    session = Mock(spec=Session, host="builder")
    session.open_channel.return_value = channel
    request = BuildRequest("s.tar.gz", "", "python3", None, "", None, (), {}, 1.0)
    uv = StagedFile(name="uv", path="/uv", sha256="0" * 64, size=1, kind="tool")
    with pytest.raises(StageError, match="build host builder sent `") as refused:
        BuildHost("builder", session, "/builds").build("one", request, [uv], print)
    assert greeting.strip() in refused.value.text
    assert "bashrc" in (refused.value.hint or "")
    assert "builder.pyz build" in session.open_channel.call_args.args[0]
    channel.close.assert_called_once_with()
