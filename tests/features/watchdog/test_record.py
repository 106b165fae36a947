"""What is told of a watchdog: in the summary of the next run, and in `status`."""

import json
from dataclasses import asdict, replace

import pytest

from provision.core.models.facts import HostFacts, Installed
from provision.features.watchdog import hooks
from provision.features.watchdog.health_agent import Event, WatchdogRecord, parse_record, sentence

FIRST = Event("20261127T043320Z", "restarted", "frozen: stopped by a signal for 6 s", "/opt/x/logs/hang-1.txt")
SECOND = replace(FIRST, at="20261127T051000Z", dump="/opt/x/logs/hang-2.txt")
DOWN = replace(SECOND, action="left down", reason="hung again after 1 restart within an hour: no token for 240 s")


def test_a_record_is_read_and_anything_else_is_an_empty_one() -> None:
    record = WatchdogRecord(7, (FIRST, DOWN))
    assert parse_record(json.dumps(asdict(record))) == record
    for text in ("", "{", "[]", "null", '{"restarts": "x"}', '{"restarts": 1, "events": [{}]}'):
        assert parse_record(text) == WatchdogRecord()


def test_only_what_happened_since_the_last_run_counts() -> None:
    record = WatchdogRecord(2, (FIRST, SECOND))
    assert record.since("") == (FIRST, SECOND)
    assert record.since("20261127T050000Z-2") == (SECOND,)
    assert record.since("20261128T000000Z") == ()


@pytest.mark.parametrize(("service", "is_red"), [("failed", True), ("inactive", True), ("active", False)])
def test_an_engine_that_was_left_down_makes_status_red(service: str, is_red: bool) -> None:
    facts = HostFacts(host="a", probed_at="2026-11-27T08:00:00Z", installed=Installed(prefix="/p", service=service))
    assert hooks.part_of(WatchdogRecord(2, (FIRST, DOWN)), facts).is_red is is_red
    assert not hooks.part_of(WatchdogRecord(1, (FIRST,)), facts).is_red


def test_it_is_told_in_one_sentence() -> None:
    assert sentence((), is_down=False) == ""
    assert sentence((FIRST,), is_down=False) == (
        "its watchdog restarted it once, last at 20261127T043320Z: frozen: stopped by a signal for 6 s; "
        "threads and stacks in /opt/x/logs/hang-1.txt"
    )
    assert sentence((FIRST, SECOND), is_down=False).startswith("its watchdog restarted it 2 times, last at 20261127T05")
    assert sentence((FIRST, DOWN), is_down=True).startswith("its watchdog left it down at 20261127T051000Z: hung again")
    assert "had left it down" in sentence((FIRST, DOWN), is_down=False), "somebody has started it again"
