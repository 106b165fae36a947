"""The image of a container: an archive in OCI's layout, and files that are none."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from provision.core.errors import StageError
from provision.phases.stage.image import image_id, stage_image

CONFIG, MANIFEST = "c" * 64, "a" * 64
INDEX = {"manifests": [{"digest": f"sha256:{MANIFEST}"}]}
MEMBERS = {"index.json": INDEX, f"blobs/sha256/{MANIFEST}": {"config": {"digest": f"sha256:{CONFIG}"}}}


def archive(folder: Path, members: dict[str, object]) -> Path:
    path = folder / "image.tar"
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            text = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(text)
            file.addfile(member, io.BytesIO(text))
    return path


@pytest.mark.parametrize("at", ["", "./"])
def test_an_image_has_the_id_that_podman_gives_it(tmp_path: Path, at: str) -> None:
    path = archive(tmp_path, {at + name: content for name, content in MEMBERS.items()})
    staged = stage_image(path)
    assert (image_id(staged), staged.path, staged.kind) == (CONFIG, str(path), "image")
    assert staged.size == path.stat().st_size


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"manifest.json": []}, "no archive in OCI's layout: 'index.json'"),
        ({"index.json": INDEX}, f"'blobs/sha256/{MANIFEST}'"),
        ({"index.json": []}, "index.json holds no object"),
        ({**MEMBERS, "index.json": {"manifests": INDEX["manifests"] * 2}}, "has 2 images"),
        ({"index.json": {"manifests": []}}, "no archive in OCI's layout"),
    ],
)
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, members: dict[str, object], said: str) -> None:
    with pytest.raises(StageError) as refused:
        stage_image(archive(tmp_path, members))
    assert said in refused.value.text
    assert "podman save --format oci-archive" in (refused.value.hint or "")


def test_a_text_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_text("no archive")
    with pytest.raises(StageError):
        stage_image(tmp_path / "image.tar")
