"""Prefetch pinned wheels while uv resolves: they are most of the bytes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from provision.core.errors import FirstlightError
from provision.phases.stage.download import RemoteFile, fetch_all
from provision.phases.stage.wheelhouse import Store

if TYPE_CHECKING:
    import httpx


class Prefetch:
    """A background thread that fetches files into the wheelhouse until the block ends.

    Its result is not awaited. The fetch of the whole lock finds the files that are present, waits for those in progress, and reports
    failures.
    """

    def __init__(self, store: Store, open_client: Callable[[], httpx.Client]) -> None:
        self._store = store
        self._open_client = open_client
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def begin(self, find: Callable[[], Sequence[RemoteFile]]) -> None:
        """Fetch the files that `find` returns. It runs in the thread, since it may query indexes."""
        thread = threading.Thread(target=self._work, args=(find,), name="firstlight-prefetch", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, find: Callable[[], Sequence[RemoteFile]]) -> None:
        # The fetch of the whole lock retries what failed here and reports it.
        with contextlib.suppress(FirstlightError):
            fetch_all(self._store, find(), self._open_client, stop=self._stop, attempts=1)
