"""The image of a container: an archive in OCI's layout, named by the ID that podman gives it.

The format: https://github.com/opencontainers/image-spec/blob/main/image-layout.md.
"""

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

from provision.core.errors import StageError
from provision.core.models.settings import Settings
from provision.core.models.staged import StagedFile
from provision.phases.stage.wheelhouse import Store, sha256_of

NAME = "image-{}.tar"
"""Name of the file in the incoming folder, with the ID of the image."""
IMAGES = "images"
"""Table of the wheelhouse: images by the names of their files, so that a bundle has them."""
HINT = "firstlight_image takes a file of one image: podman save --format oci-archive -o FILE IMAGE"


def stage_image(path: Path) -> StagedFile:
    """Return the file of an image. Raises StageError where it is no archive of one image in OCI's layout."""
    try:
        with tarfile.open(path) as archive:
            manifest, *others = _json(archive, "index.json")["manifests"]
            algorithm, _, digest = str(manifest["digest"]).partition(":")
            config = str(_json(archive, f"blobs/{algorithm}/{digest}")["config"]["digest"])
    except (OSError, tarfile.TarError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"image `{path}` is no archive in OCI's layout: {error}", hint=HINT) from error
    if others:
        raise StageError(f"image `{path}` has {1 + len(others)} images", hint=HINT)
    name = NAME.format(config.partition(":")[2])
    return StagedFile(name=name, path=str(path), sha256=sha256_of(path), size=path.stat().st_size, kind="image")


def image_files(settings: Settings, store: Store, *, is_bundled: bool) -> list[StagedFile]:
    """Return the file of a container's image, that of a bundle where a run has one. Raises StageError."""
    if settings.runtime != "podman" or not settings.image:
        return []
    path = Path(settings.image)
    key = hashlib.sha256(path.name.encode()).hexdigest()
    kept = store.get(IMAGES, key) if is_bundled else None
    found = store.find(kept["sha256"], path.name) if kept else None
    if kept and found:
        return [StagedFile(**kept, path=str(found))]
    staged = stage_image(path)
    value = staged.model_dump(exclude={"path"})
    if store.get(IMAGES, key) != value:
        store.put(IMAGES, key, value)
    return [staged]


def image_id(file: StagedFile) -> str:
    """Return the ID of the image in a file, 64 hex digits."""
    before, after = NAME.split("{}")
    return file.name.removeprefix(before).removesuffix(after)


def _json(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    """Return the object in a member. Raises KeyError without that member, and ValueError where it holds no object."""
    member = next((one for one in archive if one.name.removeprefix("./") == name), None)
    content = archive.extractfile(member) if member else None
    if content is None:
        raise KeyError(name)
    found = json.load(content)
    if not isinstance(found, dict):
        raise ValueError(f"{name} holds no object")  # noqa: TRY004 - the file is wrong, not the caller
    return found
