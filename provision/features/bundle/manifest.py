"""The manifest of a bundle: its classes of hosts, every file with its hash, and cache entries for the stage phase.

A bundle is an uncompressed tar, in this order:

    manifest.json               this record
    manifest.json.minisig       its signature
    controller/NAME.whl         wheels for the environment of the controller
    product/...                 the product itself
    sbom/ENVIRONMENT.cdx.json   what each environment consists of (CycloneDX)
    files/SHA256/NAME           files for the wheelhouse
"""

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
SBOM = "sbom/"
FILES = "files/"
FORMAT: Literal[1] = 1


class BundledFile(Record):
    """A member of the tar. Sizes in bytes."""

    path: str = Field(pattern=r"^(controller|product|sbom|files)/[^\x00]+$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)

    @property
    def is_stored(self) -> bool:
        """Return whether it is for the wheelhouse."""
        return self.path.startswith(FILES)

    @property
    def name(self) -> str:
        """Return its name there."""
        return self.path.rpartition("/")[2]


class BundledClass(Record):
    """Hosts with one environment."""

    hosts: tuple[str, ...]
    """Their names when the bundle was created. Other hosts of the same class can use it too."""
    stack: Stack
    interpreter: Interpreter | None = None
    environment: str
    os_packages: int = 0
    """Number of OS packages in the bundle for these hosts."""


class CacheEntry(Record):
    """An entry of the wheelhouse's cache, which replaces queries to a network."""

    kind: str = Field(pattern=r"^[a-z]+$")
    key: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    value: dict[str, Any]


class BundledModel(Record):
    """A model that was a local folder: its name, and its files by relative path."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    files: dict[str, str]
    """Relative paths and the sha256 of the members."""


class Manifest(Record):
    """The signed record of a bundle."""

    format: Literal[1] = FORMAT
    product: str
    """Version of the product that created the bundle."""
    made_at: str
    classes: tuple[BundledClass, ...] = Field(min_length=1)
    model: BundledModel | None = None
    cache_entries: tuple[CacheEntry, ...]
    files: tuple[BundledFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def read_manifest(content: bytes, where: str) -> Manifest:
    """Parse a manifest. Raises BundleError where the content is none, or one of another format."""
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the text"
        raise BundleError(
            f"`{where}`: {MANIFEST} is not valid for this release: {field}: {first['msg']}",
            hint="use the release of Firstlight that is in the bundle: tar -xf BUNDLE product",
        ) from None
    paths = [*(file.path for file in manifest.files), *(manifest.model.files if manifest.model else ())]
    for path in paths:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise BundleError(f"`{where}`: {path} is outside the bundle", hint="do not use it")
    return manifest
