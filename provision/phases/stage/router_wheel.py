"""The wheel of vllm-router for a gateway: one file, of which the program that our launcher starts needs no other distribution."""

from __future__ import annotations

from provision.catalog.index.settings import ClientSettings
from provision.core.folders import product_path
from provision.core.models.staged import StagedFile
from provision.phases.stage.locked_wheel import fetch_locked_wheel, locked_hashes
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store

LOCK = product_path("requirements/router.txt")
DISTRIBUTION = "vllm-router"
MACHINES = ("x86_64", "aarch64")
"""What it has wheels for."""
_GLIBC, _PYTHON = "2_28", "3.8"
"""What its wheels need at least."""
_UNUSED = ("aiohttp", "fastapi", "orjson", "requests", "setproctitle", "uvicorn")
"""Distributions that only its own launcher and its balancer for debugging import."""


def stage_router(machine: str, settings: ClientSettings, store: Store) -> StagedFile:
    """Put the wheel for a machine into the wheelhouse.

    Args:
        machine: One of `MACHINES`.
        settings: The user's index.
        store: The wheelhouse.

    Raises:
        StageError: The wheel cannot be had, or its hash is not in the lock.

    """
    version, _ = locked_hashes(LOCK, DISTRIBUTION)
    key = f"{DISTRIBUTION}-{version}-{machine}"
    if (known := store.get("tools", key)) and (path := store.find(known["sha256"], known["name"])):
        return store.staged(path, "tool")
    target = Target.of(f"{machine}-manylinux_{_GLIBC}", _PYTHON)
    path = fetch_locked_wheel(DISTRIBUTION, target, settings, store, LOCK, excluded=_UNUSED)
    store.put("tools", key, {"sha256": path.parent.name, "name": path.name})
    return store.staged(path, "tool")
