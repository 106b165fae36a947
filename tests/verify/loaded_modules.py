"""A plugin of pytest for tests with torch: waiting threads sleep, and garbage is collected without what was loaded.

`verify upgrade` collects garbage before it measures memory; with all of vLLM loaded that takes a second each time.
"""

import gc
import os

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as in a run: threads that wait must sleep, not spin


@pytest.fixture(scope="module", autouse=True)
def loaded_modules() -> None:
    """Keep what is there out of later collections."""
    gc.collect()
    gc.freeze()
