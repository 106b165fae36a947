"""Hosts of `status --watch`: what is kept of their answers. The hosts are stand-ins; tests/fleet/test_releases.py watches real ones."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import pytest

from provision.core.errors import TransportError
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.pipeline import watch
from provision.pipeline.watch import WatchedHost


def host(state: dict[str, Any] | None) -> WatchedHost:
    installed = Installed(prefix="/p", release="old", state=state)
    facts = HostFacts(host="a", probed_at="2026-01-01T00:00:00Z", installed=installed)
    return WatchedHost(Host(name="a", connection=Connection(kind="local"), settings=Settings()), facts, None)


def answer(tokens: float, release: str = "new") -> dict[str, Any]:
    return {"load": {"tokens": tokens, "first_token": {"+Inf": 1.0}}, "release": release}


SERVES = {"readiness": {"port": 8000}}


def test_the_release_is_the_one_that_the_host_has_now() -> None:
    one = host(SERVES)
    assert one.release == "old"
    one.take(answer(1.0), None)
    assert (one.release, len(one.readings), one.problem) == ("new", 1, "")


def test_a_failure_is_shown_and_ends_the_observed_time() -> None:
    one = host(SERVES)
    one.take(answer(1.0), None)
    one.take(None, TransportError("host `a` does not answer"))
    assert (one.problem, one.readings) == ("host `a` does not answer", deque())
    one.take({"load": {}, "release": "new"}, None)
    assert one.problem == "vLLM does not answer"
    one.take(answer(2.0), None)
    assert (one.problem, len(one.readings)) == ("", 1)


def test_readings_are_kept_for_the_observed_time(monkeypatch: pytest.MonkeyPatch) -> None:
    one, now = host(SERVES), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for number in range(60):
        one.take(answer(float(number)), None)
        now += 2
    kept = one.readings
    assert kept[-1].at - kept[0].at == pytest.approx(watch.OBSERVED_S, abs=watch.EVERY_S)


def test_a_host_that_serves_nothing_is_not_asked() -> None:
    assert (host({"readiness": None}).is_asked, host({"readiness": None}).problem) == (False, "serves nothing")
    absent = WatchedHost(Host(name="a", connection=Connection(kind="local"), settings=Settings()), None, None)
    assert (absent.is_asked, absent.problem) == (False, "not reached")
