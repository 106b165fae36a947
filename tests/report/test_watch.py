"""The live table of `status --watch`: rates, quantiles, and hosts that cannot be read."""

from __future__ import annotations

import io
from bisect import bisect_left
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from provision.core.models.facts import HostFacts, Nvidia, NvidiaGpu
from provision.core.models.inventory import Connection, Host
from provision.core.models.settings import Settings
from provision.pipeline.watch import Reading, WatchedHost, cells, quantile, table

LIMITS = (0.001, 0.01, 0.1, 1.0, 10.0)
ROUNDING = 1e-12


def histogram(values: list[float]) -> dict[str, float]:
    found = {str(limit): float(sum(value <= limit for value in values)) for limit in LIMITS}
    return {**found, "+Inf": float(len(values))}


def reading(at: float, **values: float) -> Reading:
    return Reading(
        at, {"running": 2, "waiting": 1, "cache": 0.25, **values}, histogram([0.05] * int(values["finished"]))
    )


READINGS = (reading(0.0, tokens=100, finished=10), reading(20.0, tokens=300, finished=20))


def watched(name: str, readings: tuple[Reading, ...], *, problem: str = "") -> WatchedHost:
    gpus = tuple(NvidiaGpu(index=index, name="H100") for index in range(8))
    facts = HostFacts(host=name, probed_at="2026-01-01T00:00:00Z", nvidia=Nvidia(gpus=gpus))
    host = Host(name=name, connection=Connection(kind="local"), settings=Settings())
    one = WatchedHost(host, facts, None, deque(readings))
    one.problem, one.release = problem, "0123456789abcdef"
    return one


SERVING = watched("gpu-1", READINGS)


def test_a_row_has_the_rates_of_the_observed_time() -> None:
    assert cells(SERVING) == (
        *("gpu-1", "01234567", "2", "1", "0.5", "10.0"),
        *("0.055 s, 0.099 s", "25%", "8 x H100"),
    )


def test_one_reading_gives_no_rate() -> None:
    assert cells(watched("a", READINGS[:1]))[4:7] == ("-", "-", "-")


def test_counters_that_begin_anew_give_no_rate() -> None:
    restarted = (READINGS[1], reading(40.0, tokens=0, finished=0))
    assert cells(watched("a", restarted))[4:7] == ("-", "-", "-")


def test_hosts_that_cannot_be_read_come_first_and_a_small_terminal_says_how_many_more() -> None:
    hosts = [SERVING, watched("gpu-2", (), problem="vLLM does not answer"), *[SERVING] * 10]
    stream = io.StringIO()
    Console(file=stream, width=120).print(table(hosts, height=8, seconds=30.0))
    lines = stream.getvalue().splitlines()
    assert lines[1].split() == ["gpu-2", "01234567", "vLLM", "does", "not", "answer"]
    assert "and 8 more hosts" in lines[5]
    assert lines[-1].strip() == "rates and times of the last 30 s; Ctrl-C ends"


@given(st.lists(st.floats(0.0005, 9.0), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_value_of_its_rank(values: list[float], share: float) -> None:
    found = quantile(histogram(values), share)
    rank = next(value for number, value in enumerate(sorted(values), 1) if number >= share * len(values))
    bucket = bisect_left(LIMITS, rank)
    assert found is not None
    least = LIMITS[bucket - 1] if bucket else 0.0
    assert least * (1 - ROUNDING) <= found <= LIMITS[bucket] * (1 + ROUNDING)


@pytest.mark.parametrize(
    ("buckets", "found"), [({}, None), ({"1.0": 0, "+Inf": 0}, None), ({"1.0": 0, "+Inf": 5}, 1.0)]
)
def test_a_quantile_without_values_or_above_all_limits(buckets: dict[str, float], found: float | None) -> None:
    assert quantile(buckets, 0.5) == found
