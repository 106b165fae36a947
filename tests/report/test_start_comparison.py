"""Starts of services on equal hosts: which phase is named, and which is not."""

from typing import Any

import pytest

from provision.core.models.records import CheckRecord, HostSummary, PhaseResult, ServeRecord
from provision.report.starts import compare_starts
from tests.report.sample import CPU_STACK

USUAL = {"imports": 9.0, "engine": 15.0, "weights": 35.0, "compile": 95.0, "graphs": 101.0, "health": 104.0}


def started(
    name: str,
    ends: dict[str, float] | None = None,
    *,
    devices: str = "8 x NVIDIA H100 80GB HBM3",
    installed: bool = False,
) -> HostSummary:
    """A host whose service started; `ends` are other ends of phases than the usual ones."""
    install = PhaseResult(host=name, phase="install", status="ok", changed=installed)
    serve = ServeRecord(model="small", ready=True, startup_s={**USUAL, **(ends or {})})
    known: dict[str, Any] = {"devices": (devices,), "stack": CPU_STACK, "phases": {"install": install}, "serve": serve}
    return HostSummary(name=name, state="serving", changed=True, **known)


def later(by: float, *phases: str) -> dict[str, float]:
    """The ends of phases, if the first one took this much longer."""
    return {phase: end + by for phase, end in USUAL.items() if phase in phases}


SLOW_WEIGHTS = later(200, "weights", "compile", "graphs", "health")
"""220 s where 20 s are usual."""
EQUAL = [started("b"), started("c", {"imports": 10.0}), started("d")]


def compared(*hosts: HostSummary) -> CheckRecord | None:
    found = compare_starts(hosts)
    assert len(found) <= 1
    return found[0] if found else None


def test_a_phase_that_takes_much_longer_than_on_equal_hosts_is_named_with_its_figures() -> None:
    record = compared(started("a", SLOW_WEIGHTS), *EQUAL)
    assert record is not None
    assert (record.id, record.status) == ("fleet.starts", "warn")
    assert record.reason == "start of the service: weights on a took 4 min, more than 60 s"
    (figure,) = record.figures
    assert (figure.value, figure.ceiling, figure.unit) == (220.0, 60.0, "s")
    assert (figure.source or "").startswith("3 times the median of 4 equal hosts, 20 s; ours: ")
    assert "./firstlight drift" in (record.remedy or "")


@pytest.mark.parametrize(
    "odd",
    [
        started("a", later(39, "weights", "compile", "graphs", "health")),
        started("a", later(19, "imports", "engine", "weights", "compile", "graphs", "health")),
        started("a", later(900, "compile", "graphs", "health")),
        started("a"),
    ],
    ids=["below three times", "only some seconds more", "the host that compiles", "equal"],
)
def test_other_differences_are_no_finding(odd: HostSummary) -> None:
    assert compared(odd, *EQUAL) is None


@pytest.mark.parametrize(
    "hosts",
    [
        [started("a", SLOW_WEIGHTS), started("b")],
        [started("a", SLOW_WEIGHTS, devices="4 x NVIDIA L40S"), *EQUAL[:2]],
        [started("a", SLOW_WEIGHTS, installed=True), *EQUAL[:2]],
        [HostSummary(name=name, state="unchanged", changed=False) for name in "abc"],
    ],
    ids=["two hosts", "other devices", "newly installed", "not started in this run"],
)
def test_hosts_without_enough_equals_are_not_compared(hosts: list[HostSummary]) -> None:
    assert compared(*hosts) is None


def test_each_class_of_hosts_is_compared_for_itself() -> None:
    others = [started(name, SLOW_WEIGHTS, devices="4 x NVIDIA L40S") for name in "efg"]
    assert compared(*EQUAL, *others) is None
