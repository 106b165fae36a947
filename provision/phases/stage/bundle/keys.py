"""Keys and signatures in minisign's format, so that `minisign -V` checks a bundle's manifest as well; the arithmetic is py-minisign's.

A key pair is made on first use, without a password, in the user's configuration folder; the secret half is readable for its owner alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from provision.core.errors import BundleError
from provision.core.run_folder import write_atomically

if TYPE_CHECKING:
    from minisign import PublicKey, SecretKey

PRIVATE_FILE = "bundle.key"
PUBLIC_FILE = "bundle.pub"


def folder() -> Path:
    """Where the user's own keys lie: XDG_CONFIG_HOME/firstlight, else ~/.config/firstlight."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "firstlight"


def signing_key(named: Path | None) -> SecretKey:
    """The key that is named, else the user's own, made where there is none.

    Raises BundleError when the file is no secret key, or wants a password.
    """
    from minisign import SecretKey  # noqa: PLC0415 (only bundles need it)

    path = named or folder() / PRIVATE_FILE
    if named is None and not path.exists():
        _make(path)
    try:
        key = SecretKey.from_file(path)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"`{path}` is no secret key of minisign: {error}",
            hint="make one without a password: minisign -G -W -s FILE",
        ) from None
    if key.is_encrypted():
        raise BundleError(
            f"the key `{path}` is encrypted",
            hint="name one without a password, kept where only you read it: minisign -G -W -s FILE",
        )
    return key


def _make(path: Path) -> None:
    from minisign import KeyPair  # noqa: PLC0415 (only bundles need it)

    pair = KeyPair.generate()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_atomically(path, bytes(pair.secret_key) + b"\n", mode=0o600)
    write_atomically(path.with_name(PUBLIC_FILE), bytes(pair.public_key) + b"\n")


def public_text(key: SecretKey) -> str:
    """The public half as one word: what `--trust` takes."""
    return str(key.get_public_key().to_base64(), "ascii")


def sign(key: SecretKey, content: bytes, comment: str) -> bytes:
    """A signature file's content; the comment is signed too."""
    return bytes(key.sign(content, trusted_comment=comment)) + b"\n"


def verify(content: bytes, signature: bytes, trusted: str | None, where: str) -> None:
    """Check a manifest against a key: a file, or the key itself as one word; without either, the user's own.

    Raises BundleError when there is no key to trust, when another key signed, or when the content was changed.
    """
    from minisign import Error, Signature, VerifyError  # noqa: PLC0415 (only bundles need it)

    key, named = _trusted(trusted, where)
    try:
        key.verify(content, Signature.from_bytes(signature.strip()))
    except VerifyError as error:
        raise BundleError(
            f"`{where}`: manifest.json is not signed by {named}: {error}",
            hint="name the key of whoever made the bundle with --trust; if that is this key, the bundle was changed: do not use it",
        ) from None
    except (Error, ValueError) as error:
        raise BundleError(
            f"`{where}`: manifest.json.minisig is no signature: {error}", hint="fetch the bundle again"
        ) from None


def _trusted(named: str | None, where: str) -> tuple[PublicKey, str]:
    from minisign import PublicKey  # noqa: PLC0415 (only bundles need it)

    own = folder() / PUBLIC_FILE
    if named is None and not own.exists():
        raise BundleError(
            f"no key is trusted for `{where}`",
            hint="name the public key of whoever made it: --trust FILE, or --trust KEY as `bundle create` printed it",
        )
    path = own if named is None else Path(named).expanduser()
    try:
        if path.is_file():
            return PublicKey.from_bytes(path.read_bytes().strip()), f"the key in `{path}`"
        return PublicKey.from_base64(str(named)), f"the key {named}"
    except (OSError, ValueError) as error:
        raise BundleError(
            f"`{named or path}` is no public key of minisign: {error}", hint="two lines in a file, or the second alone"
        ) from None
