"""Writing a bundle: its size is known first, every file is hashed again, and the result is complete or absent."""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from provision import __version__
from provision.core.errors import BundleError
from provision.core.formatting import format_bytes
from provision.core.models.staged import Staged
from provision.core.run_folder import utc_now
from provision.features.bundle.keys import sign
from provision.features.bundle.manifest import (
    CONTROLLER,
    FILES,
    MANIFEST,
    PRODUCT,
    SBOM,
    SIGNATURE,
    BundledClass,
    BundledFile,
    BundledModel,
    CacheEntry,
    Manifest,
)
from provision.phases.stage.download import Progress
from provision.phases.stage.wheelhouse import flat_name, sha256_of

if TYPE_CHECKING:
    from minisign import SecretKey

_TAR_BLOCK = 10240
_HEADER = 1536
"""Maximum overhead of a tar member: its header and one for a long name."""


@dataclass
class BundleContents:
    """The parts of a bundle."""

    staged: list[Staged]
    cache_entries: tuple[CacheEntry, ...]
    controller: list[Path]
    product: list[tuple[str, Path]]
    model: str | None = None
    """Name of the model's folder, where the model is a local folder."""
    sboms: list[Path] = field(default_factory=list)
    """A document for each environment."""
    sources: dict[str, Path] = field(default_factory=dict, init=False)
    """Members and the files that they are read from."""

    def manifest(self) -> Manifest:
        """Return the manifest. Hashes of staged files are those of the stage phase."""
        self.sources = {
            **{CONTROLLER + path.name: path for path in self.controller},
            **{PRODUCT + name: path for name, path in self.product},
            **{SBOM + path.name: path for path in self.sboms},
        }
        files = {
            name: BundledFile(path=name, sha256=sha256_of(path), size=path.stat().st_size)
            for name, path in self.sources.items()
        }
        staged_files = [file for staged in self.staged for file in staged.files]
        for file in staged_files:
            stored = Path(file.path).name if file.kind != "model" else flat_name(file.name)
            name = f"{FILES}{file.sha256}/{stored}"
            files[name] = BundledFile(path=name, sha256=file.sha256, size=file.size)
            self.sources[name] = Path(file.path)
        model = {file.name: file.sha256 for file in staged_files if file.kind == "model"}
        return Manifest(
            product=__version__,
            made_at=utc_now(),
            classes=tuple(
                BundledClass(
                    hosts=staged.hosts,
                    stack=staged.stack,
                    interpreter=staged.interpreter,
                    environment=staged.environment,
                    os_packages=sum(file.kind == "deb" for file in staged.files),
                )
                for staged in self.staged
            ),
            model=BundledModel(name=self.model, files=model) if self.model is not None else None,
            cache_entries=self.cache_entries,
            files=tuple(files.values()),
        )


def write_bundle(
    output: Path, contents: BundleContents, key: SecretKey, *, progress: Progress | None = None
) -> Manifest:
    """Write the bundle to a partial file and rename it. Raises BundleError where that fails, the disk is too full, or a staged file changed."""
    manifest = contents.manifest()
    text = manifest.model_dump_json(indent=1).encode()
    signature = sign(key, text, f"firstlight bundle made {manifest.made_at}")
    total = manifest.size + len(text) + _HEADER * (len(manifest.files) + 2) + _TAR_BLOCK
    part = output.with_name(f"{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < total:
        raise BundleError(
            f"the bundle needs {format_bytes(total)}, and {format_bytes(free)} are free at `{output.parent}`",
            hint="choose a folder on a larger disk with -o",
        )
    try:
        with part.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST, len(text), io.BytesIO(text))
            _add(tar, SIGNATURE, len(signature), io.BytesIO(signature))
            done = 0
            for file in manifest.files:
                _add_file(tar, file, contents.sources[file.path])
                done += file.size
                if progress:
                    progress("bundle", done, manifest.size)
        part.replace(output)
    except OSError as error:
        raise BundleError(
            f"`{output}` cannot be written: {error.strerror}", hint="choose another folder with -o"
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return manifest


def _add_file(tar: tarfile.TarFile, file: BundledFile, source: Path) -> None:
    try:
        mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
        reading = source.open("rb")
    except OSError as error:
        raise _unreadable(source, error) from None
    with reading:
        hashed = _Hashed(reading, source)
        try:
            _add(tar, file.path, file.size, hashed, mode=mode)
        except OSError as error:
            if error.errno is not None:  # an error of the target disk
                raise
            raise _unreadable(source, error) from None
    if hashed.digest.hexdigest() != file.sha256:
        raise BundleError(f"`{source}` changed while the bundle was written", hint="create it again")


def _unreadable(source: Path, error: OSError) -> BundleError:
    return BundleError(f"`{source}` cannot be read: {error}", hint="stage again")


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], source: Path) -> None:
        self._file = file
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        try:
            block = self._file.read(size)
        except OSError as error:
            raise _unreadable(self._source, error) from None
        self.digest.update(block)
        return block


def _add(tar: tarfile.TarFile, name: str, size: int, content: io.BytesIO | _Hashed, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    tar.addfile(entry, content)
