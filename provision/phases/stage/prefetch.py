"""Builds whose very file is known before uv has solved the rest are fetched while it does: they are most of the bytes."""

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


class EarlyFetch:
    """A thread that fetches into the wheelhouse until the block ends.

    Nobody waits for it: who fetches the lock's files finds what is there, waits for what is under way, and tells of what fails.
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
        """Fetch what `find` names; it is called in the thread, for it may ask places of its own."""
        thread = threading.Thread(target=self._work, args=(find,), name="firstlight-early", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, find: Callable[[], Sequence[RemoteFile]]) -> None:
        # What could not be had here is asked for once more, and told, by the fetch of the whole lock.
        with contextlib.suppress(FirstlightError):
            fetch_all(self._store, find(), self._open_client, stop=self._stop, attempts=1)
