"""A plugin of pytest for tests with torch: collections of garbage leave out what was loaded before a file of tests.

`verify upgrade` collects garbage before it measures memory; with all of vLLM loaded that takes a second each time.
"""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def loaded_modules() -> None:
    """Keep what is there out of later collections."""
    gc.collect()
    gc.freeze()
