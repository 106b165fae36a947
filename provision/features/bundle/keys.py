"""Keys and signatures in minisign's format, by py-minisign. `minisign -V` can check the manifest of a bundle.

A key pair without a password is created on first use in the user's configuration folder. Only its owner can read the secret key.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from provision.core.errors import BundleError
from provision.core.files import write_atomically
from provision.core.folders import config_folder

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey

PRIVATE_FILE = "bundle.key"
PUBLIC_FILE = "bundle.pub"


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
