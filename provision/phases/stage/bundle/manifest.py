"""What a bundle says of itself: the classes of hosts it is for, every file with its hash, and what stage is to remember.

A bundle is an uncompressed tar, in this order:

    manifest.json               this record
    manifest.json.minisig       its signature
    controller/NAME.whl         the controller's own wheels, by which the launcher makes .venv
    product/...                 the product itself
    files/SHA256/NAME           what goes into the wheelhouse
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import Field, ValidationError

from provision.core.errors import BundleError
from provision.core.models.base import Record
from provision.core.models.stack import Interpreter, Stack

MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"
CONTROLLER = "controller/"
PRODUCT = "product/"
FILES = "files/"
FORMAT: Literal[1] = 1


class BundledFile(Record):
    """A member of the tar. Sizes are bytes."""

    path: str = Field(pattern=r"^(controller|product|files)/[^\x00]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class BundledClass(Record):
    """Hosts that one environment serves, and what decides on it."""

    hosts: tuple[str, ...]
    """Names they had when the bundle was made; other hosts of the same class are served alike."""
    stack: Stack
    interpreter: Interpreter | None = None
    environment: str
    os_packages: int = 0
    """Number of OS packages that are in the bundle for these hosts."""


class Remembered(Record):
    """What stage looks up instead of asking a network."""

    kind: str = Field(pattern=r"^[a-z]+$")
    key: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    value: dict[str, Any]


class BundledModel(Record):
    """A model that was a folder on the machine where the bundle was made: its name, and its files by their place in it."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    files: dict[str, str]
    """Path below the folder and the sha256 of the member."""


class Manifest(Record):
    format: Literal[1] = FORMAT
    product: str
    """Version of the product that made the bundle."""
    made_at: str
    classes: tuple[BundledClass, ...] = Field(min_length=1)
    model: BundledModel | None = None
    remembered: tuple[Remembered, ...]
    files: tuple[BundledFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_manifest(content: bytes, where: str) -> Manifest:
    """A manifest from its JSON. Raises BundleError when it is none, or of another format."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole text"
        raise BundleError(
            f"`{where}`: {MANIFEST} is not one that this release reads: {place}: {first['msg']}",
            hint="use the release of Firstlight that is in the bundle: tar -xf BUNDLE product",
        ) from None
    places = [*(file.path for file in manifest.files), *(manifest.model.files if manifest.model else ())]
    for place in places:
        if place.startswith("/") or ".." in PurePosixPath(place).parts:
            raise BundleError(f"`{where}`: {place} lies outside the bundle", hint="do not use it")
    return manifest
