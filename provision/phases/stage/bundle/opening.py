"""Opening a bundle: signature first, then every file hashed as it goes into the wheelhouse; stage learns of them when all were right."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import BundleError, StageError
from provision.phases.stage.bundle.bundled import Bundled
from provision.phases.stage.bundle.keys import verify
from provision.phases.stage.bundle.manifest import FILES, MANIFEST, SIGNATURE, BundledFile, Manifest, read_manifest
from provision.phases.stage.model import remember_hashes
from provision.phases.stage.wheelhouse import BLOCK, Store, plain_name

_MOST_MANIFEST = 1 << 28


@dataclass(frozen=True)
class Opened:
    """A bundle whose files are in the wheelhouse."""

    manifest: Manifest
    settings: ClientSettings
    """Nothing but the bundle: no index, no network."""
    model: str | None
    """The folder of the bundle's model, where it has one that was a folder."""


def open_bundle(
    path: Path, store: Store, *, trust: str | None, progress: Callable[[int, int], None] | None = None
) -> Opened:
    """Check a bundle and put its files into the wheelhouse; what is there already is not read again.

    Raises BundleError that names the first thing that is wrong: the file itself, its signature, a member that was changed, is missing or
    does not belong there. Nothing of such a bundle is used.
    """
    with _reading(path) as tar:
        text = _whole(tar, MANIFEST, path)
        verify(text, _whole(tar, SIGNATURE, path), trust, str(path))
        manifest = read_manifest(text, str(path))
        _take(tar, manifest, path, store, progress)
    model = _lay_out(manifest, store)
    for entry in manifest.remembered:
        store.put(entry.kind, entry.key, entry.value)
    settings = ClientSettings(no_index=True, sealed=True, bundled=Bundled(path.name, manifest.classes))
    return Opened(manifest, settings, model)


@contextmanager
def _reading(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(
            f"`{path}` is no bundle, or ends early: {error}", hint="copy it again; its size may tell"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _whole(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    member = tar.next()
    if member is None or member.name != name or not member.isreg() or member.size > _MOST_MANIFEST:
        raise BundleError(
            f"`{path}` is no bundle: it does not have {name} in its place", hint="make one: ./firstlight bundle create"
        )
    reading = tar.extractfile(member)
    assert reading is not None
    return reading.read()


def _take(
    tar: tarfile.TarFile, manifest: Manifest, path: Path, store: Store, progress: Callable[[int, int], None] | None
) -> None:
    """Every member once, in the manifest's order."""
    missing = [file for file in manifest.files if _in_store(file) and store.find(file.sha256, _name(file)) is None]
    if not missing:
        return
    store.require_space(sum(file.size for file in missing), f"bundle `{path.name}`")
    done = 0
    for file in manifest.files:
        member = tar.next()
        if member is None:
            raise BundleError(f"`{path}` ends early: {file.path} is missing", hint="copy it again")
        if member.name != file.path or not member.isreg() or member.size != file.size:
            raise _changed(path, member.name if member.name != file.path else file.path)
        reading = tar.extractfile(member)
        assert reading is not None
        if _in_store(file):
            _store(reading, file, path, store)
        elif _digest(reading) != file.sha256:
            raise _changed(path, file.path)
        done += file.size
        if progress:
            progress(done, manifest.size)
    extra = tar.next()
    if extra is not None:
        raise _changed(path, extra.name)


def _store(reading: IO[bytes], file: BundledFile, path: Path, store: Store) -> None:
    try:
        with store.slot(file.sha256, _name(file)) as slot:
            if slot.stored():
                return
            digest = hashlib.sha256()
            with slot.part.open("wb") as writing:
                for block in _blocks(reading, path):
                    digest.update(block)
                    writing.write(block)
            slot.commit(digest.hexdigest())
    except StageError:
        raise _changed(path, file.path) from None
    except OSError as error:
        raise BundleError(
            f"{file.path} cannot be put into the wheelhouse `{store.root}`: {error.strerror}",
            hint="free some space there, or set FIRSTLIGHT_CACHE to a folder on a larger disk",
        ) from None


def _blocks(reading: IO[bytes], path: Path) -> Iterator[bytes]:
    """A member's content; that the bundle cannot be read is no fault of where it goes."""
    try:
        while block := reading.read(BLOCK):
            yield block
    except OSError as error:
        raise _unreadable(path, error) from None


def _digest(reading: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := reading.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"`{path}` cannot be read: {error.strerror}", hint="check the path of --bundle")


def _changed(path: Path, member: str) -> BundleError:
    return BundleError(
        f"`{path}`: {member} is not what the signed manifest says",
        hint="the bundle was changed or damaged after it was made: do not use it; fetch it again from where it was made",
    )


def _in_store(file: BundledFile) -> bool:
    return file.path.startswith(FILES)


def _name(file: BundledFile) -> str:
    return file.path.rsplit("/", 1)[1]


def _lay_out(manifest: Manifest, store: Store) -> str | None:
    """The model's folder as it was, of links to the files in the wheelhouse."""
    model = manifest.model
    if model is None:
        return None
    digest = hashlib.sha256("\n".join(sorted(model.files.values())).encode()).hexdigest()[:16]
    folder = (store.root / "bundled" / digest / model.name).absolute()
    for place, sha256 in model.files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f".{target.name}.{os.getpid()}")
        link.symlink_to(store.path(sha256, plain_name(place)))
        link.replace(target)
    remember_hashes(folder, model.files, store)
    return str(folder)
