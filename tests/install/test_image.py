"""The scripts of role `image`; a stand-in for podman runs the command on this machine."""

import os
from pathlib import Path

import pytest

from tests.install.scripts import run_sh

IMAGE = "d" * 64


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins: podman, and what the image has."""
    programs = {
        "podman": f'echo "$*" >{tmp_path}/asked; while [ "$1" != {IMAGE} ]; do shift; done; shift; exec "$@"',
        "c++": "exit 1",
        "ls": f'test -e {tmp_path}/compat && echo "$1"',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_an_image_without_compatibility_libraries_is_verified_and_one_with_them_is_refused(podman: Path) -> None:
    """NVIDIA's toolkit would put them before the driver's own."""
    given = {"prefix": "/opt/firstlight", "image": IMAGE, "python": "true"}
    done = run_sh("image/files/verify.sh", **given)
    assert (done.returncode, done.stdout) == (0, "")
    asked = (podman / "asked").read_text()
    assert "--security-opt=label=disable" in asked, "no file of the environment gets a label of SELinux"
    assert "--volume=/opt/firstlight:/opt/firstlight:ro " in asked
    (podman / "compat").touch()
    done = run_sh("image/files/verify.sh", **given)
    assert done.returncode == 1
    assert "in image dddddddddddd: it has compatibility libraries of CUDA" in done.stdout


def test_check_mode_foretells_an_image_where_podman_is_still_to_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_sh("image/files/load.sh", prefix=str(tmp_path), image=IMAGE, archive=str(tmp_path / "no"), check="1")
    assert (done.returncode, done.stdout) == (0, f"firstlight-changed: image {IMAGE}\n"), done.stderr


def test_linked_files_of_a_model_have_to_be_in_the_folder_that_a_container_gets(tmp_path: Path) -> None:
    """The hub's cache has links to files of another folder."""
    share, blobs, model = (tmp_path / name for name in ("share", "blobs", "model"))
    for folder in (share, blobs, model):
        folder.mkdir()
    for name in ("config.json", "weights"):
        (share / name).write_text(name)
        (model / name).symlink_to(share / name)
    (tmp_path / "link").symlink_to(share)
    given = {"model": str(model), "on_host": str(tmp_path / "link"), "prefix": str(model)}
    assert run_sh("model/files/verify_links.sh", **given).returncode == 0
    (share / "weights").rename(blobs / "1f")
    (share / "weights").symlink_to("../blobs/1f")
    done = run_sh("model/files/verify_links.sh", **given)
    assert done.returncode == 1
    assert f"{share}/weights leads to {blobs}/1f, which is outside of {tmp_path}/link" in done.stdout
