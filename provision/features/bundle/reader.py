"""Reading a bundle: the signature first, then each file is hashed on its way into the wheelhouse; cache entries come last."""

import contextlib
import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import BundleError, StageError
from provision.core.models.inventory import Host
from provision.core.models.stack import Stack
from provision.features.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    BundledClass,
    BundledFile,
    Manifest,
    read_manifest,
    verify,
)
from provision.fleet.host_records import HostRecord, address_of, get_record, put_record
from provision.phases.stage.model import remember_hashes
from provision.phases.stage.wheelhouse import BLOCK, Store, flat_name

_MOST_MANIFEST = 1 << 28


@dataclass(frozen=True)
class OpenedBundle:
    """A bundle whose files are in the wheelhouse."""

    manifest: Manifest
    settings: ClientSettings
    """Settings with the bundle alone: no index, no network."""
    model: str | None
    """The folder of the bundle's model, where that was a local folder."""


def open_bundle(
    path: Path,
    store: Store,
    *,
    trust: str | None,
    accepts_older: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> OpenedBundle:
    """Check a bundle and put its files into the wheelhouse. Files that are present are not read again.

    Args:
        trust: The public key or its file; None for the user's own key.
        accepts_older: Whether the user accepts a bundle that is older than the last one of a host.
        progress: Called with the bytes done and the bytes in all.

    Raises:
        BundleError: The file, its signature or a member is wrong. Nothing of such a bundle is used.
    """
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|") as tar:
            text = _whole(tar, MANIFEST, path)
            verify(text, _whole(tar, SIGNATURE, path), trust, str(path))
            manifest = read_manifest(text, str(path))
            _take(tar, manifest, path, store, progress)
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(
            f"`{path}` is not a bundle, or is truncated: {error}", hint="copy it again and compare the sizes"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    model = _lay_out(manifest, store)
    for entry in manifest.cache_entries:
        store.put(entry.kind, entry.key, entry.value)
    bundled = Bundled(path.name, manifest.made_at, manifest.classes, accepts_older)
    return OpenedBundle(manifest, ClientSettings(no_index=True, sealed=True, bundled=bundled), model)


def _whole(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    member = tar.next()
    if member is None or member.name != name or not member.isreg() or member.size > _MOST_MANIFEST:
        raise BundleError(f"`{path}` is not a bundle: {name} is missing", hint="create one: ./firstlight bundle create")
    reading = tar.extractfile(member)
    assert reading is not None
    return reading.read()


def _take(
    tar: tarfile.TarFile, manifest: Manifest, path: Path, store: Store, progress: Callable[[int, int], None] | None
) -> None:
    """Read every member once, in the manifest's order."""
    missing = [file for file in manifest.files if file.is_stored and store.find(file.sha256, file.name) is None]
    if not missing:
        return
    store.prune()  # `stage` does not where there is a bundle; files of this bundle are read below in any case
    store.require_space(sum(file.size for file in missing), f"bundle `{path.name}`")
    done = 0
    for file in manifest.files:
        member = tar.next()
        if member is None:
            raise BundleError(f"`{path}` is truncated: {file.path} is missing", hint="copy it again")
        if member.name != file.path or not member.isreg() or member.size != file.size:
            raise _changed(path, member.name if member.name != file.path else file.path)
        reading = tar.extractfile(member)
        assert reading is not None
        if file.is_stored:
            _store(reading, file, path, store)
        elif hashlib.file_digest(reading, "sha256").hexdigest() != file.sha256:  # type: ignore[arg-type]  # it has readinto
            raise _changed(path, file.path)
        done += file.size
        if progress:
            progress(done, manifest.size)
    if (extra := tar.next()) is not None:
        raise _changed(path, extra.name)


def _store(reading: IO[bytes], file: BundledFile, path: Path, store: Store) -> None:
    try:
        with store.slot(file.sha256, file.name) as slot:
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
            f"{file.path} cannot be written to the wheelhouse `{store.root}`: {error.strerror}",
            hint="free some space there, or set FIRSTLIGHT_CACHE to a folder on a larger disk",
        ) from None


def _blocks(reading: IO[bytes], path: Path) -> Iterator[bytes]:
    """Yield the content of a member. A read error is one of the bundle, not of the wheelhouse."""
    try:
        while block := reading.read(BLOCK):
            yield block
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> BundleError:
    return BundleError(f"`{path}` cannot be read: {error.strerror}", hint="check the path of --bundle")


def _changed(path: Path, member: str) -> BundleError:
    return BundleError(
        f"`{path}`: {member} differs from the signed manifest",
        hint="the bundle was changed or damaged: do not use it; copy it again from its creator",
    )


def _lay_out(manifest: Manifest, store: Store) -> str | None:
    """Create the model's folder from links into the wheelhouse."""
    model = manifest.model
    if model is None:
        return None
    digest = hashlib.sha256("\n".join(sorted(model.files.values())).encode()).hexdigest()[:16]
    folder = (store.root / "bundled" / digest / model.name).absolute()
    for place, sha256 in model.files.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        link = target.with_name(f".{target.name}.{os.getpid()}")
        link.symlink_to(store.path(sha256, flat_name(place)))
        link.replace(target)
    remember_hashes(folder, model.files, store)
    return str(folder)


class LastBundle(HostRecord):
    """The bundle that a host's environment was last prepared from: LOGS/bundles/HOST.json on the controller."""

    name: str
    made_at: str


@dataclass(frozen=True)
class Bundled:
    """A bundle whose files are in the wheelhouse."""

    name: str
    made_at: str
    """When it was created: UTC, ISO 8601."""
    classes: tuple[BundledClass, ...]
    """The classes of hosts that it serves."""
    accepts_older: bool = False
    """Whether the user accepts that it is older than the last one of a host."""

    def difference(self, stack: Stack) -> str:
        """Describe the difference between a Stack and the nearest one of the bundle."""
        wanted = _parts(stack)
        found: list[list[str]] = []
        for row in self.classes:
            pairs = [(what, wanted[what], there) for what, there in _parts(row.stack).items()]
            found.append(
                [f"{what} {here} is wanted, the bundle has {there}" for what, here, there in pairs if here != there]
            )
        nearest = min(found, key=len)
        return "; ".join(nearest) or "another release of the product created it"

    def accept(self, host: Host, logs: Path) -> None:
        """Keep this bundle as the last one of a host whose environment changes. Raises BundleError where that is newer, unless the user accepts it."""
        folder, last = logs / "bundles", None
        with contextlib.suppress(OSError, ValueError):
            last = get_record(folder, host, LastBundle)
        if last is not None and self.made_at < last.made_at and not self.accepts_older:
            raise BundleError(
                f"`{self.name}` was created {self.made_at}, and `{host.name}` got an environment from "
                f"`{last.name}` of {last.made_at} already",
                hint="use the newer bundle; to go back on purpose, add --older-bundle",
            )
        put_record(folder, host, LastBundle(address=address_of(host), name=self.name, made_at=self.made_at))


def _parts(stack: Stack) -> dict[str, str]:
    """Return what decides whether an environment fits, as people read it."""
    vllm, torch, package = stack.vllm, stack.torch, stack.flash_attn.package
    cards = f" for {', '.join(package.key.capabilities)}" if package and package.key else ""
    return {
        "vLLM": f"{vllm.version} ({vllm.variant})" if vllm else "none",
        "torch": f"{torch.version} ({torch.variant})",
        "Python": stack.interpreter.version,
        "platform": stack.platform,
        "flash-attn": f"{package.version}{cards}" if package else "none",
        "service manager": "supervisor" if stack.supervisor == "supervisor" else "that of the system",
        "executor": stack.executor,
        "wheel of vLLM": vllm.wheel.name if vllm and vllm.wheel else "none",
        "packages": ", ".join(stack.packages) or "none",
        "packages for traces": ", ".join(stack.tracing) or "none",
    }
