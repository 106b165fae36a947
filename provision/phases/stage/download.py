"""Parallel, resumable downloads into the wheelhouse; every file is hashed while it arrives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from provision.catalog.index.http_client import describe_error
from provision.core.errors import StageError
from provision.core.formatting import format_bytes
from provision.core.user_path import local_path
from provision.phases.stage.wheelhouse import Slot, Store

if TYPE_CHECKING:
    import httpx

    from provision.phases.stage.model_hub import HubFile
    from provision.phases.stage.solve import LockedWheel

    RemoteFile: TypeAlias = HubFile | LockedWheel

STREAMS = 8
"""Maximum number of parallel downloads."""
MOST_BYTES = 1 << 40
"""Size limit of a file whose size the index does not have."""
SLOW_S = 60.0
SLOW_BYTES = 1 << 16
"""A connection that transfers fewer bytes than this within SLOW_S is dropped."""
ATTEMPTS = 5
"""Maximum number of failures of one file in a row without progress."""
FIRST_PAUSE_S = 0.5
"""Pause after a failure; it doubles each time."""

Progress = Callable[[str, int, int], None]
"""Called with the step (`download`, `model` ...), the bytes done and the bytes in all; the total is 0 while unknown."""


OnStored = Callable[[Path], None]
"""Called from any thread for each file in the wheelhouse."""


def fetch_all(
    store: Store,
    files: Iterable[RemoteFile],
    open_client: Callable[[], httpx.Client],
    *,
    what: str = "download",
    progress: Progress | None = None,
    on_stored: OnStored = lambda _path: None,
) -> dict[str, Path]:
    """Fetch files that the wheelhouse lacks. No client is opened when none is missing.

    Args:
        what: Name of the step for `progress`.

    Returns:
        The path of every file by its hash.

    Raises:
        StageError: A file does not exist, cannot be reached, or has another hash. Partial files are kept for the next run.
    """
    found: dict[str, Path] = {}
    missing: dict[str, RemoteFile] = {}
    for file in files:
        if path := store.find(file.sha256, file.name):
            found[file.sha256] = path
        else:
            missing[file.sha256] = file
    # A model may have one content under several names: it is stored under one of them.
    missing = {sha256: file for sha256, file in missing.items() if sha256 not in found}
    for path in found.values():
        on_stored(path)
    if not missing:
        return found
    stop = Event()
    with open_client() as client, ThreadPoolExecutor(max_workers=STREAMS) as pool:
        sizes = dict(zip(missing, pool.map(lambda file: _size(client, file), missing.values()), strict=True))
        parts = {file.sha256: _length(Slot(store, file.sha256, file.name).part) for file in missing.values()}
        store.require_space(sum(max(0, size - parts[sha256]) for sha256, size in sizes.items()), what)
        total = sum(sizes.values()) if all(sizes.values()) else 0
        done: dict[str, int] = {}
        lock = Lock()

        def tally(sha256: str, count: int) -> None:
            with lock:
                done[sha256] = count
                if progress:
                    progress(what, sum(done.values()), total)

        fetch = _Fetch(store, client, tally, on_stored, stop)
        # The largest first, so that the last download is not a large one.
        ordered = sorted(missing.values(), key=lambda file: -sizes[file.sha256])
        futures = {pool.submit(fetch.one, file): file.sha256 for file in ordered}
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    broken = [future for future in futures if not future.cancelled() and future.exception()]
    for future in sorted(broken, key=lambda future: isinstance(future.exception(), _StoppedError)):
        future.result()
    return found | {sha256: future.result() for future, sha256 in futures.items()}


def download(client: httpx.Client, url: str, target: Path, *, hint: str) -> None:
    """Download a file whose hash is unknown. Raises StageError where it cannot be fetched or written."""
    import httpx

    try:
        headers = {"Accept-Encoding": "identity"}
        with client.stream("GET", url, headers=headers) as answer, target.open("wb") as file:
            answer.raise_for_status()
            for block in answer.iter_raw():
                file.write(block)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = describe_error(error)
    except OSError as error:
        problem = f"`{target.parent}` cannot be written: {error.strerror}"
    else:
        return
    raise StageError(f"`{target.name}` could not be fetched from {_host(url)}: {problem}", hint=hint)


def _size(client: httpx.Client, file: RemoteFile) -> int:
    """Return the bytes of a file, 0 where the server does not announce them."""
    import httpx

    if file.size:
        return file.size
    if path := local_path(file.url):
        return path.stat().st_size if path.is_file() else 0
    try:
        answer = client.head(file.url, headers={"Accept-Encoding": "identity"})
    except (httpx.HTTPError, httpx.InvalidURL):
        return 0
    return int(answer.headers.get("Content-Length", 0)) if answer.is_success else 0


class _StoppedError(StageError):
    """Cancelled because another file failed."""


class _SlowError(Exception):
    """The connection is too slow."""


@dataclass(frozen=True)
class _Fetch:
    store: Store
    client: httpx.Client
    tally: Callable[[str, int], None]
    on_stored: OnStored
    stop: Event

    def one(self, file: RemoteFile) -> Path:
        try:
            if source := local_path(file.url):
                path = self.store.add(source, name=file.name, sha256=file.sha256)
            else:
                with self.store.slot(file.sha256, file.name) as slot:
                    path = slot.stored() or self._download(slot, file)
            self.tally(file.sha256, path.stat().st_size)
        except OSError as error:
            raise StageError(
                f"`{file.name}` cannot be written to the wheelhouse `{self.store.root}`: {error.strerror}",
                hint="free some space, or set FIRSTLIGHT_CACHE to a folder on a larger disk",
            ) from error
        self.on_stored(path)
        return path

    def _download(self, slot: Slot, file: RemoteFile) -> Path:
        import httpx

        problem, failures = "", 0
        while failures < ATTEMPTS:
            if failures:
                self.stop.wait(FIRST_PAUSE_S * 2 ** (failures - 1))
            before = _length(slot.part)
            try:
                digest = self._stream(slot.part, file)
            except httpx.HTTPStatusError as error:
                code = error.response.status_code
                problem = f"HTTP {code}"
                if code < 500 and code not in {408, 416, 429}:
                    break
                if code == 416:
                    slot.part.unlink(missing_ok=True)
            except _SlowError as error:
                problem = str(error)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                problem = describe_error(error)
                failures = 0 if _length(slot.part) > before else failures
            else:
                if digest == file.sha256 or not before:
                    return slot.commit(digest)
                # The partial file may be of another file: start again.
                slot.part.unlink()
                problem = "the partial file of an earlier run does not fit"
            failures += 1
        raise StageError(
            f"`{file.name}` could not be fetched from {_host(file.url)}: {problem}",
            hint="run again: the download is resumed; if it fails again, check your index settings",
        )

    def _stream(self, part: Path, file: RemoteFile) -> str:
        digest, have = hashlib.sha256(), _length(part)
        if have:
            with part.open("rb") as begun:
                digest = hashlib.file_digest(begun, "sha256")
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self.client.stream("GET", file.url, headers=headers) as answer:
            answer.raise_for_status()
            if have and answer.status_code != 206:
                digest, have = hashlib.sha256(), 0
            self.tally(file.sha256, have)
            since, counted, most = time.monotonic(), have, file.size or MOST_BYTES
            with part.open("ab" if have else "wb") as writing:
                for block in answer.iter_raw():
                    if self.stop.is_set():
                        raise _StoppedError(f"the download of `{file.name}` was cancelled")
                    have += len(block)
                    if have > most:
                        part.unlink()
                        raise StageError(
                            f"`{file.name}` is too long: {_host(file.url)} sends more than {format_bytes(most)}",
                            hint="the server sends another file than announced; try again, or use another index or mirror",
                        )
                    writing.write(block)
                    digest.update(block)
                    self.tally(file.sha256, have)
                    now = time.monotonic()
                    if have - counted >= SLOW_BYTES:
                        since, counted = now, have
                    elif now - since > SLOW_S:
                        raise _SlowError(f"only {have - counted} bytes arrived in {now - since:.0f} s")
        return digest.hexdigest()


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
