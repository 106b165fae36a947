"""The manifest of a bundle: its classes of hosts, every file with its hash, and cache entries for the stage phase.

A bundle is an uncompressed tar, in this order:

    manifest.json               this record
    manifest.json.minisig       its signature
    controller/NAME.whl         wheels for the environment of the controller
    product/...                 the product itself
    sbom/ENVIRONMENT.cdx.json   what each environment consists of (CycloneDX)
    files/SHA256/NAME           files for the wheelhouse

Keys and signatures are in minisign's format, by py-minisign: `minisign -V` can check the manifest. A key pair without a
password is created on first use in the user's configuration folder. Only its owner can read the secret key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from provision.core.errors import BundleError
from provision.core.files import write_atomically
from provision.core.folders import config_folder
from provision.core.models.base import Record
from provision.core.models.stack import Stack

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey


MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.minisig"
CONTROLLER = "controller/"
PRODUCT = "product/"
SBOM = "sbom/"
FILES = "files/"
PRIVATE_FILE = "bundle.key"
PUBLIC_FILE = "bundle.pub"


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
    os_packages: int = 0
    """Number of OS packages in the bundle for these hosts."""


class CacheEntry(Record):
    """An entry of the wheelhouse's cache, which replaces queries to a network."""

    kind: str = Field(pattern=r"^[a-z_]+$")
    key: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    value: dict[str, Any]


class BundledModel(Record):
    """A model that was a local folder: its name, and its files by relative path."""

    name: str = Field(pattern=r"^[^/\s\x00]+$")
    files: dict[str, str]
    """Relative paths and the sha256 of the members."""


class Manifest(Record):
    """The signed record of a bundle."""

    format: Literal[1] = 1
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
    model = manifest.model
    for path in [*(file.path for file in manifest.files), *((model.name, *model.files) if model else ())]:
        if path.startswith("/") or not {".", ".."}.isdisjoint(path.split("/")):
            raise BundleError(f"`{where}`: {path} is outside the bundle", hint="do not use it")
    return manifest


def signing_key(named: Path | None) -> SecretKey:
    """Read a secret key; without a file the user's own, which is created when absent. Raises BundleError where it is none, or needs a password."""
    from minisign import KeyPair, SecretKey

    path = named or config_folder() / PRIVATE_FILE
    if named is None and not path.exists():
        pair = KeyPair.generate()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomically(path, bytes(pair.secret_key) + b"\n", mode=0o600)
        write_atomically(path.with_name(PUBLIC_FILE), bytes(pair.public_key) + b"\n")
    try:
        key = SecretKey.from_file(path)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"`{path}` is not a secret key of minisign: {error}",
            hint="create one without a password: minisign -G -W -s FILE",
        ) from None
    if key.is_encrypted():
        raise BundleError(
            f"the key `{path}` is encrypted",
            hint="use one without a password that only you can read: minisign -G -W -s FILE",
        )
    return key


def public_text(key: SecretKey) -> str:
    """Return the public key as one line, as `--trust` accepts it."""
    return str(key.get_public_key().to_base64(), "ascii")


def sign(key: SecretKey, content: bytes, comment: str) -> bytes:
    """Return the content of a signature file. The comment is signed too."""
    return bytes(key.sign(content, trusted_comment=comment)) + b"\n"


def verify(content: bytes, signature: bytes, trusted: str | None, where: str) -> None:
    """Verify a manifest with a public key, its file, or the user's own key.

    Raises BundleError where there is no trusted key, another key signed, or the content was changed.
    """
    from minisign import Error, Signature, VerifyError

    key, named = _trusted(trusted, where)
    try:
        key.verify(content, Signature.from_bytes(signature.strip()))
    except VerifyError as error:
        raise BundleError(
            f"`{where}`: manifest.json is not signed by {named}: {error}",
            hint="pass the key of the bundle's creator with --trust; if it is this key, the bundle was changed: do not use it",
        ) from None
    except (Error, ValueError) as error:
        raise BundleError(
            f"`{where}`: manifest.json.minisig is not a signature: {error}", hint="fetch the bundle again"
        ) from None


def _trusted(named: str | None, where: str) -> tuple[PublicKey, str]:
    from minisign import PublicKey

    own = config_folder() / PUBLIC_FILE
    if named is None and not own.exists():
        raise BundleError(
            f"no key is trusted for `{where}`",
            hint="pass the public key of its creator: --trust FILE, or --trust KEY as `bundle create` printed it",
        )
    path = own if named is None else Path(named).expanduser()
    try:
        if path.is_file():
            return PublicKey.from_bytes(path.read_bytes().strip()), f"the key in `{path}`"
        return PublicKey.from_base64(str(named)), f"the key {named}"
    except (OSError, ValueError) as error:
        raise BundleError(
            f"`{named or path}` is not a public key of minisign: {error}", hint="pass the key file or its second line"
        ) from None
