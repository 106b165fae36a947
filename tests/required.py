"""What tests need beyond Python: without it they are skipped, or fail where every test has to run."""

import os
import shutil
from typing import NoReturn

import pytest


def do_without(reason: str) -> NoReturn:
    """Skip the test with the reason; with FIRSTLIGHT_REQUIRE_FLEET=1 fail it."""
    if os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
        pytest.fail(reason)
    pytest.skip(reason)


def program(name: str) -> str:
    """Return the path of a program of this machine, which the test cannot do without."""
    found = shutil.which(name)
    if found is None:
        do_without(f"{name} is not installed: what needs it is NOT TESTED")
    return found
