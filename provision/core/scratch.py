"""Temporary folders that only this account can read, and that are removed with their block."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Provide an empty folder; what cannot be removed in the end is left to the system."""
    with tempfile.TemporaryDirectory(prefix="firstlight-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
