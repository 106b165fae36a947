"""When `status` offers the service of a host."""

from __future__ import annotations

from typing import Any

import pytest

from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.pipeline.host_status import serving_of

INSTALLED: dict[str, Any] = {
    "state": {"release": "1" * 16},
    "release": "1" * 16,
    "releases": ("1" * 16,),
    "environments": ("e",),
    "service": "active",
    "last_ready": {
        "release": "1" * 16,
        "record": {"endpoint": "http://127.0.0.1:8000/v1", "model": "m", "chat": True, "ready": True},
    },
}


@pytest.mark.parametrize(
    "change",
    [
        {"service": "inactive"},
        {"release": "2" * 16},
        {"last_ready": None},
        {"last_ready": {"release": "1" * 16, "record": {"endpoint": "http://127.0.0.1:8000/v1"}}},
        {"last_ready": {"release": "1" * 16, "record": []}},
    ],
)
def test_a_service_that_nothing_proves_is_not_offered(change: dict[str, Any]) -> None:
    known = HostFacts(host="a", probed_at="2026-01-03T00:00:00Z", installed=Installed(prefix="/p", **INSTALLED))
    assert known.installed is not None
    there = Host(name="a", connection=Connection(kind="local"), settings=Settings())
    assert serving_of(there, known) is not None
    changed = known.model_copy(update={"installed": known.installed.model_copy(update=change)})
    assert serving_of(there, changed) is None
