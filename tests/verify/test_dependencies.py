"""Checks depend on each other: what runs after a failed dependency, and what an interrupted run keeps."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verify.host import devices
from verify.records import Check, CheckContext, CheckResult, Status
from verify.runner import execution as runner
from verify.runner.execution import CheckCall, DependencyTree, Injection, run, with_dependencies
from verify.runner.registry import all_checks
from verify.runner.report import fold_skips

BY_ID = {check.id: check for check in all_checks()}


def rests_on(check: Check) -> set[str]:
    """Return all dependencies of a check, indirect ones included."""
    return {one.id for one in with_dependencies([check], all_checks())} - {check.id}


def test_every_check_of_a_device_depends_on_its_detection_by_torch() -> None:
    for check in all_checks():
        assert set(check.requires) <= BY_ID.keys(), check.id
        assert not [name for name in check.requires if BY_ID[name].exclusive], check.id
        if check.each_device or check.all_devices:
            assert {"devices.torch", "libraries.torch_build"} <= rests_on(check), check.id
        for name in check.requires:
            assert check.id not in rests_on(BY_ID[name]), name


def answer(status: Status, reason: str = "done") -> Callable[[CheckContext], CheckResult]:
    return lambda _: CheckResult(status, reason)


OK = answer("ok")


def stub(id_: str, *requires: str, run: Callable[[CheckContext], CheckResult] = OK, **values: Any) -> Check:
    return Check(id_, "Proves nothing.", run, requires=requires, **values)


def outcomes(document: dict[str, Any]) -> dict[tuple[str, str | None], str]:
    return {(one["id"], one["device"]): f"{one['status']}: {one['reason']}" for one in document["checks"]}


def test_checks_that_depend_on_a_failure_are_skipped_with_the_first_cause() -> None:
    def never(_: CheckContext) -> CheckResult:
        raise AssertionError

    checks = [
        stub("devices.driver", run=answer("fail", reason="no module")),
        stub("devices.torch", "devices.driver", run=never),
        stub("kernels.gemm", "devices.torch", run=never),
        stub("speed.gemm", "kernels.gemm", run=never, exclusive=True),
        stub("libraries.lock"),
    ]
    document = run(checks, CheckContext())
    assert document["status"] == "fail"
    assert outcomes(document) == {
        ("devices.driver", None): "fail: no module",
        ("devices.torch", None): "skip: needs devices.driver",
        ("kernels.gemm", None): "skip: needs devices.driver",
        ("speed.gemm", None): "skip: needs devices.driver",
        ("libraries.lock", None): "ok: done",
    }
    folded = {row["id"]: row["reason"] for row in fold_skips(document["checks"]) if row["status"] == "skip"}
    assert folded == {"3 checks": "needs devices.driver (devices 1, kernels 1, speed 1)"}


def test_checks_that_do_not_apply_to_a_host_are_shown_in_one_row() -> None:
    reasons = {
        "devices.ecc": "no NVIDIA GPU on the PCI bus",
        "devices.amd_ecc": "no AMD GPU on the PCI bus",
        "kernels.graph": "CPUs have no kernel graphs",
        "libraries.lock": "there is no lock to compare with",
    }
    checks = [stub(id_, run=answer("skip", reason=reason)) for id_, reason in reasons.items()]
    document = run(checks, CheckContext())
    assert {row["id"]: row["reason"] for row in fold_skips(document["checks"])} == {
        "3 checks": "do not apply: no GPU (devices 2, kernels 1)",
        "libraries.lock": "there is no lock to compare with",
    }
    exclusive = [record for record in document["checks"] if record["id"] == "devices.ecc"]
    assert fold_skips(exclusive) == exclusive


@pytest.mark.parametrize("status", ["ok", "skip", "warn"])
def test_checks_that_depend_on_anything_but_a_failure_run(status: Status) -> None:
    document = run(
        [stub("devices.driver", run=answer(status)), stub("devices.torch", "devices.driver")], CheckContext()
    )
    assert outcomes(document)["devices.torch", None] == "ok: done"


def test_a_dependency_with_an_error_counts_as_failed() -> None:
    def crash(_: CheckContext) -> CheckResult:
        os.abort()

    document = run([stub("devices.driver", run=crash), stub("devices.torch", "devices.driver")], CheckContext())
    assert document["status"] == "error"
    assert outcomes(document)["devices.torch", None] == "skip: needs devices.driver"


def test_a_faulty_device_skips_its_checks_and_those_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def add(context: CheckContext) -> CheckResult:
        return CheckResult("fail" if context.device == "cuda:1" else "ok", "added")

    monkeypatch.setattr(runner, "_import_torch", lambda: ("2.13.0", None))
    monkeypatch.setattr(devices, "list_devices", lambda _: (("cuda:0", "cuda:1"), None))
    checks = [
        stub("kernels.vector_add", run=add, each_device=True),
        stub("kernels.gemm", "kernels.vector_add", each_device=True),
        stub("collectives.nccl", "kernels.vector_add", all_devices=True),
    ]
    assert outcomes(run(checks, CheckContext())) == {
        ("kernels.vector_add", "cuda:0"): "ok: added",
        ("kernels.vector_add", "cuda:1"): "fail: added",
        ("kernels.gemm", "cuda:0"): "ok: done",
        ("kernels.gemm", "cuda:1"): "skip: needs kernels.vector_add on cuda:1",
        ("collectives.nccl", None): "skip: needs kernels.vector_add on cuda:1",
    }


def test_a_check_with_an_injected_fault_runs_whatever_its_dependencies() -> None:
    checks = [
        stub("devices.driver", run=answer("fail")),
        stub("kernels.gemm", "devices.driver", faults=("wrong-result",)),
    ]
    assert outcomes(run(checks, CheckContext(), [Injection("wrong-result", None)]))["kernels.gemm", None] == "ok: done"


def test_results_are_kept_when_the_run_is_killed() -> None:
    def kill(_: CheckContext) -> CheckResult:
        time.sleep(0.5)  # the other check has returned by then
        os.kill(os.getppid(), signal.SIGKILL)
        return CheckResult("ok", "never received")

    checks = [stub("libraries.lock"), stub("devices.driver", run=kill), stub("devices.torch", "devices.driver")]
    document = run(checks, CheckContext())
    assert document["status"] == "error"
    assert outcomes(document) == {
        ("frame.run", None): "error: cannot tell: its process was ended by SIGKILL",
        ("libraries.lock", None): "ok: done",
        ("devices.driver", None): "error: did not finish: its process was ended by SIGKILL",
        ("devices.torch", None): "skip: needs frame.run",
    }


@pytest.mark.slow
def test_results_are_kept_when_the_run_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object) -> None:
        time.sleep(600)

    monkeypatch.setattr(runner, "OVERHEAD_S", 3.0)
    monkeypatch.setattr(Check, "compare_devices", hang)
    document = run([stub("libraries.lock", deadline_s=1.0)], CheckContext())
    found = outcomes(document)
    assert found["libraries.lock", None] == "ok: done"
    assert found["frame.run", None] == "error: cannot tell: did not finish within 4 s and was stopped"


@pytest.mark.slow
def test_a_run_may_take_as_long_as_all_its_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run has no limit for its whole time; it ends when no check answers in time."""

    def measure(_: CheckContext) -> CheckResult:
        time.sleep(0.4)
        return CheckResult("ok", "measured")

    monkeypatch.setattr(runner, "OVERHEAD_S", 0.0)
    checks = [stub(f"speed.{name}", run=measure, exclusive=True, deadline_s=3.0) for name in "abcdefghi"]
    document = run(checks, CheckContext())
    assert document["seconds"] > 3.0
    assert set(outcomes(document).values()) == {"ok: measured"}


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[Check], dict[tuple[str, str | None], Status]]:
    """Draw checks that may each depend on earlier ones, and the result of each."""
    checks: list[Check] = []
    for number in range(draw(st.integers(1, 8))):
        names = [check.id for check in checks]
        requires = tuple(draw(st.lists(st.sampled_from(names), unique=True, max_size=3))) if names else ()
        checks.append(replace(stub(f"kernels.{number}", *requires), each_device=draw(st.booleans())))
    order = draw(st.permutations(checks))
    statuses: st.SearchStrategy[Status] = st.sampled_from(["ok", "skip", "warn", "fail", "error"])
    return list(order), {(check.id, device): draw(statuses) for check in checks for device in (None, "a", "b")}


@given(trees())
def test_every_call_runs_or_is_skipped_once_after_its_dependencies(
    made: tuple[list[Check], dict[tuple[str, str | None], Status]],
) -> None:
    checks, endings = made
    keys = [CheckCall(check, device) for check in checks for device in (("a", "b") if check.each_device else (None,))]
    tree = DependencyTree(keys)
    begin, never = tree.ready()
    ended: dict[CheckCall, Status] = {}
    skipped = dict(never)
    waiting = list(begin)
    while waiting:
        key = waiting.pop()
        scope = [one for one in keys if key.device is None or one.device in (None, key.device)]
        assert all(one.check.id not in key.check.requires or one in ended for one in scope)
        ended[key] = endings[key.check.id, key.device]
        tree.end(key, ended[key])
        begin, never = tree.ready()
        waiting += begin
        skipped |= dict(never)
    assert {*ended, *skipped} == set(keys)
    assert not ended.keys() & skipped.keys()
    causes = {str(key) for key, status in ended.items() if status in ("fail", "error")}
    assert set(skipped.values()) <= causes
