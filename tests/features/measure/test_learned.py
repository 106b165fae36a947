"""Floors learned of equal healthy hosts: which hosts they are of, what they leave out, and what they say of another host."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provision.core.models.facts import Amd, AmdGpu, Cpu, HostFacts, Nvidia, NvidiaGpu, PciGpu
from provision.features.measure.learned import (
    HostClass,
    LearnedClass,
    LearnedFloor,
    beyond,
    by_class,
    class_of,
    is_green,
    learn,
    readings,
    record_of,
    rule,
)
from verify.records import LEARNED, CheckResult, Figure, Status, as_record
from verify.runner.registry import all_checks

CLASS = HostClass(cpu="EPYC", cpus=8, environment="abc")
speeds = st.floats(min_value=1e-3, max_value=1e6)


def document(
    host: str, *values: float, check: str = "speed.gemm", unit: str = "TFLOP/s", status: Status = "ok", **more: Any
) -> dict[str, Any]:
    """Return the document of a host with one figure of each of its devices."""
    checks = [
        as_record(check, host, f"cuda:{number}", CheckResult(status, "it is", (Figure("speed", value, unit),)), 0.1)
        for number, value in enumerate(values)
    ]
    return {"host": host, "level": "standard", "environment": "abc", "checks": checks, **more}


def fleet(*values: float, **more: Any) -> list[dict[str, Any]]:
    """Return the documents of hosts with one device each."""
    return [document(f"gpu-{number}", value, **more) for number, value in enumerate(values)]


def learned(documents: list[dict[str, Any]]) -> LearnedClass:
    found = learn(CLASS, documents, run="r1")
    assert found is not None
    return found


def only(documents: list[dict[str, Any]]) -> LearnedFloor:
    (floor,) = learned(documents).floors
    return floor


def test_every_row_names_checks_with_figures_of_its_units() -> None:
    known = [check.id for check in all_checks()]
    for id_, unit, better in (
        ("speed.memory", "GB/s", "more"),
        ("speed.attention", "TFLOP/s", "more"),
        ("collectives.nccl", "GB/s", "more"),
        ("collectives.pairs", "us", "less"),
    ):
        assert id_ in known
        (reading,) = readings(document("a", 1.0, check=id_, unit=unit))
        assert reading.better == better
    assert not [*readings(document("a", 1.0, unit="times the time"))], "ratios are not speeds"
    assert not [*readings(document("a", 1.0, check="kernels.gemm", unit="count"))]


def test_equal_hosts_give_a_floor_below_their_median() -> None:
    floor = only(fleet(100.0, 101.0, 99.0, 100.0))
    assert floor.middle == 100.0
    assert floor.tolerance == rule().share
    assert floor.bound == pytest.approx(95.0)
    assert [floor.is_missed_by(value) for value in (95.1, 94.9, 140.0)] == [False, True, False]


def test_too_few_hosts_teach_nothing_however_many_cards_they_have() -> None:
    assert learn(CLASS, [document(name, *[100.0] * 8) for name in "abc"], run="r1") is None


def test_a_slow_card_does_not_count_and_is_found() -> None:
    hosts = [document(name, *([100.0] * 7), 70.0 if name == "c" else 100.0) for name in "abcd"]
    found = learned(hosts)
    ((reading, floor),) = beyond(hosts[2], found)
    assert (reading.host, reading.device, reading.value, floor.middle) == ("c", "cuda:7", 70.0, 100.0)
    assert not beyond(hosts[0], found)


def test_of_times_less_is_better() -> None:
    hosts = fleet(10.0, 10.0, 10.1, 9.9, check="collectives.pairs", unit="us")
    floor = only(hosts)
    assert floor.bound > floor.middle
    assert [floor.is_missed_by(value) for value in (5.0, 10.4, 11.0)] == [False, False, True]


def test_hosts_that_vary_get_a_wider_tolerance_and_wild_ones_none() -> None:
    assert 0.05 < only(fleet(100.0, 97.0, 103.0, 101.0, 98.0)).tolerance < 0.15
    assert learn(CLASS, fleet(100.0, 60.0, 150.0, 30.0, 210.0), run="r1") is None
    steady = [
        {**one, "checks": [*one["checks"], *other["checks"]]}
        for one, other in zip(fleet(*[100.0] * 4), fleet(10.0, 90.0, 300.0, 700.0, unit="GB/s"), strict=True)
    ]
    assert only(steady).unit == "TFLOP/s"


def test_two_kinds_of_hosts_in_one_class_give_no_floor() -> None:
    assert learn(CLASS, fleet(*[100.0] * 4, *[50.0] * 4), run="r1") is None


def test_what_is_no_observation_does_not_count() -> None:
    assert not [*readings(document("a", 100.0, injected=["slow"]))]
    assert not [*readings(document("a", 100.0, status="fail"))]
    assert not [*readings(document("a", 100.0, status="error"))]
    carried = document("a", 100.0)
    carried["checks"][0]["found"] = {"at": "yesterday", "environment": "abc"}
    assert not [*readings(carried)]
    nothing = document("a", 100.0, 100.0, 100.0)
    for record, value in zip(nothing["checks"], (None, float("nan"), 0.0), strict=True):
        record["figures"][0]["value"] = value
    assert not [*readings(nothing)]


def test_only_hosts_without_a_warning_are_healthy() -> None:
    assert is_green(document("a", 1.0))
    assert not is_green(document("a", 1.0, status="warn"))


def test_a_host_below_its_equals_is_warned_with_the_numbers() -> None:
    record = record_of(document("new", 80.0), learned(fleet(*[100.0] * 4)), run="r2")
    assert record is not None
    assert (record["id"], record["family"], record["status"], record["host"]) == (LEARNED, "speed", "warn", "new")
    assert record["reason"] == (
        "worse than comparable hosts: speed.gemm speed on cuda:0 80 TFLOP/s, at least 95 (20% from the median); "
        "learned from 4 comparable hosts in run r1"
    )
    (figure,) = record["figures"]
    assert (figure["value"], figure["floor"], figure["ceiling"]) == (80.0, 95.0, None)


def test_figures_without_a_floor_are_not_compared() -> None:
    assert record_of(document("new", 99.0, check="speed.memory"), learned(fleet(*[100.0] * 4)), run="r1") is None


def facts(**more: Any) -> HostFacts:
    return HostFacts(host="a", probed_at="2026-01-01T00:00:00Z", cpu=Cpu(model="EPYC", logical=8), **more)


def test_equal_hosts_have_the_same_cards_driver_branch_processor_and_environment() -> None:
    def nvidia(driver: str, *names: str | None) -> HostFacts:
        gpus = tuple(NvidiaGpu(index=index, name=name) for index, name in enumerate(names))
        return facts(nvidia=Nvidia(driver_version=driver, gpus=gpus))

    checked = document("a", 1.0)
    one = class_of(nvidia("580.95.05", "H100", "H100"), checked)
    assert one is not None
    assert (one.cards, one.driver, one.cpus, one.environment) == (("H100", "H100"), "580", 8, "abc")
    assert class_of(nvidia("580.65.06", "H100", "H100"), {**checked, "environment": "abc-2"}) == one
    others = [
        class_of(nvidia("570.1", "H100", "H100"), checked),
        class_of(nvidia("580.95.05", "H100"), checked),
        class_of(nvidia("580.95.05", "H100", "H100"), {**checked, "environment": "abd"}),
        class_of(facts(amd=Amd(driver_version="6.8", gpus=(AmdGpu(index=0, name="MI300X"),))), checked),
        class_of(facts(), checked),
    ]
    assert len({other.key for other in others if other} | {one.key}) == 6


def test_cards_without_a_driver_are_known_by_the_bus() -> None:
    bus = (PciGpu(address="0000:01:00.0", vendor_id="10de", device_id="2330", class_id="0302"),)
    found = class_of(facts(pci_gpus=bus), document("a", 1.0))
    assert found is not None
    assert found.cards == ("10de:2330",)


def test_a_host_whose_processor_or_environment_is_unknown_has_no_class() -> None:
    checked = document("a", 1.0)
    assert class_of(HostFacts(host="a", probed_at="2026-01-01T00:00:00Z"), checked) is None
    assert class_of(facts(), {**checked, "environment": None}) is None
    assert by_class({"a": facts()}, [checked, document("b", 1.0)]) == {class_of(facts(), checked): [checked]}


@given(value=speeds, others=st.lists(speeds, max_size=3))
def test_a_majority_of_equal_hosts_decides_whatever_the_others_measure(value: float, others: list[float]) -> None:
    hosts = fleet(*[value] * 4, *others)
    floor = only(hosts)
    assert floor.middle == pytest.approx(value)
    assert floor.tolerance == pytest.approx(rule().share)
    found = {reading.host for host in hosts for reading, _ in beyond(host, learned(hosts))}
    slow = {f"gpu-{4 + number}" for number, other in enumerate(others) if other < value * (0.95 - 1e-9)}
    fast = {f"gpu-{4 + number}" for number, other in enumerate(others) if other > value * (0.95 + 1e-9)}
    assert slow <= found
    assert not fast & found


@given(
    values=st.lists(speeds, min_size=4, max_size=12),
    seed=st.randoms(use_true_random=False),
    factor=st.sampled_from((0.25, 8.0)),
)
def test_floors_follow_neither_order_nor_unit(values: list[float], seed: Any, factor: float) -> None:
    hosts = fleet(*values)
    shuffled = seed.sample(hosts, k=len(hosts))
    assert learn(CLASS, hosts, run="r") == learn(CLASS, shuffled, run="r")
    scaled = learn(CLASS, fleet(*[value * factor for value in values]), run="r")
    plain = learn(CLASS, hosts, run="r")
    assert (scaled is None) == (plain is None)
    if scaled and plain:
        assert scaled.floors[0].middle == pytest.approx(plain.floors[0].middle * factor)
        assert scaled.floors[0].tolerance == pytest.approx(plain.floors[0].tolerance)


@given(st.lists(st.floats(min_value=95.0, max_value=105.0), min_size=4, max_size=12))
def test_hosts_that_taught_a_floor_reach_it(values: list[float]) -> None:
    found = learn(CLASS, fleet(*values), run="r")
    if found is None:
        return
    (floor,) = found.floors
    missed = {reading.host for host in fleet(*values) for reading, _ in beyond(host, found)}
    assert len(values) - len(missed) >= rule().hosts
    assert rule().share <= floor.tolerance <= rule().widest
