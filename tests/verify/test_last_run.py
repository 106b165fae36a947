"""What failed at one level stays failed until the same check passes as deeply."""

from typing import Any

import pytest

from verify.records import BUSY
from verify.runner.last_run import failed_levels, keep_open_failures, merge_rerun, runs_by_level

FILES = "libraries.files"


def record(id_: str = FILES, status: str = "ok", level: str = "standard", **values: Any) -> dict[str, Any]:
    family = id_.partition(".")[0]
    reason = {"fail": "damaged", "error": "cannot tell", "skip": "nothing to look at"}.get(status, "right")
    known = {"id": id_, "family": family, "status": status, "reason": reason, "device": None, "level": level}
    return {**known, "found": None, **values}


def document(*records: dict[str, Any], level: str = "standard", environment: str = "e1") -> dict[str, Any]:
    at = {"standard": "12:00", "full": "09:00", "quick": "13:00", "burn-in": "03:00"}[level]
    return {"level": level, "environment": environment, "started_at": at, "status": "ok", "checks": list(records)}


FAILED_AT_FULL = document(record(status="fail", level="full"), level="full")


def reported(now: dict[str, Any], before: dict[str, Any] = FAILED_AT_FULL) -> list[tuple[str, str]]:
    return [(each["id"], each["status"]) for each in keep_open_failures(now, before)]


def test_a_pass_at_a_lower_level_keeps_the_failure_with_its_time() -> None:
    (kept,) = keep_open_failures(document(record()), FAILED_AT_FULL)
    assert (kept["status"], kept["level"]) == ("fail", "full")
    assert kept["reason"] == "damaged (found at full at 09:00; not passed at full since)"
    assert kept["found"] == {"at": "09:00", "environment": "e1"}


def test_a_failure_is_kept_through_any_number_of_runs_with_the_same_text() -> None:
    once = {**document(record()), "checks": keep_open_failures(document(record()), FAILED_AT_FULL)}
    assert keep_open_failures(document(record()), once) == once["checks"]


@pytest.mark.parametrize("status", ["fail", "error"])
def test_a_run_without_the_check_keeps_the_failure(status: str) -> None:
    before = document(record(status=status))
    assert reported(document(record("devices.xid"), level="quick"), before) == [("devices.xid", "ok"), (FILES, status)]


@pytest.mark.parametrize("status", ["ok", "warn"])
def test_a_pass_at_the_same_level_ends_the_failure(status: str) -> None:
    assert reported(document(record(status=status, level="full"))) == [(FILES, status)]
    assert reported(document(record(status=status, level="full"), level="full")) == [(FILES, status)]


def test_a_pass_at_full_ends_a_failure_of_burn_in_whose_checks_it_repeats() -> None:
    before = document(record(status="fail", level="burn-in"), level="burn-in")
    assert reported(document(record(level="full"), level="full"), before) == [(FILES, "ok")]
    (kept,) = keep_open_failures(document(record()), before)
    assert kept["reason"] == "damaged (found at burn-in at 03:00; not passed at full since)"


def test_a_newer_failure_replaces_one_at_its_level_and_stands_beside_one_at_another() -> None:
    now = document(record(status="fail", level="full", reason="other"), level="full")
    assert keep_open_failures(now, FAILED_AT_FULL) == now["checks"]
    assert reported(document(record(status="fail", reason="other"))) == [(FILES, "fail"), (FILES, "fail")]


def test_a_skipped_check_ends_no_failure() -> None:
    assert reported(document(record(status="skip", reason="needs devices.torch", level="full"))) == [(FILES, "fail")]
    assert reported(document(record(status="skip", level="full"))) == [(FILES, "fail")]


def test_each_device_has_its_own_failures() -> None:
    before = document(
        *(record("kernels.gemm", status, "full", device=device) for device, status in (("a", "ok"), ("b", "fail"))),
        level="full",
    )
    now = document(*(record("kernels.gemm", device=device) for device in "ab"))
    assert [(each["device"], each["status"]) for each in keep_open_failures(now, before)] == [
        ("a", "ok"),
        ("b", "fail"),
    ]


def test_a_measurement_that_was_skipped_on_a_busy_device_disproves_nothing() -> None:
    before = document(record("kernels.gemm", "fail", device="b"))
    busy = record("kernels.gemm", "skip", device="b", reason=f"other processes use 88% of it, {BUSY}; still open")
    assert reported(document(busy, environment="e2"), before) == [("kernels.gemm", "fail")]
    now = document(record("kernels.gemm", device="a"), busy)
    assert reported(now, before) == [("kernels.gemm", "ok"), ("kernels.gemm", "fail")]


def test_failures_of_an_environments_files_end_with_it() -> None:
    assert reported(document(record(), environment="e1-2")) == [(FILES, "ok")]


def test_failures_of_the_host_are_kept_after_its_environment_unless_nothing_can_be_checked() -> None:
    before = document(record("kernels.gemm", "fail", "full"), level="full")
    assert reported(document(record("kernels.gemm"), environment="e2"), before) == [("kernels.gemm", "fail")]
    skipped = record("kernels.gemm", "skip", reason="needs devices.torch")
    assert reported(document(skipped, environment="e2"), before) == [("kernels.gemm", "fail")]
    skipped = record("kernels.gemm", "skip", reason="the plan has no torch")
    assert reported(document(skipped, environment="e2"), before) == [("kernels.gemm", "skip")]


def test_failed_checks_are_known_with_their_deepest_level() -> None:
    both = document(record(status="fail"), record(status="fail", level="full"), record("kernels.gemm", "error"))
    assert failed_levels(both) == {FILES: "full", "kernels.gemm": "standard"}
    assert failed_levels(document(record())) == {}
    earlier = {"level": "full", "checks": [{"id": FILES, "family": "libraries", "status": "fail", "reason": "x"}]}
    assert failed_levels(earlier) == {FILES: "full"}, "of a release whose records have no level"
    assert failed_levels({"checks": [{"id": "gone.check", "status": "fail", "level": "full"}]}) == {}


def test_repeated_checks_replace_those_of_the_last_document() -> None:
    before = document(record("devices.xid"), record(status="fail", level="full"), level="full")
    again = merge_rerun(document(record(level="full")), before)
    assert [(each["id"], each["status"]) for each in again["checks"]] == [("devices.xid", "ok"), (FILES, "ok")]
    assert (again["status"], again["started_at"]) == ("ok", "09:00")
    assert merge_rerun(document(), {})["status"] == "error", "nothing was checked"
    skipped = merge_rerun(document(record(status="skip", level="full")), before)
    assert (skipped["status"], failed_levels(skipped)) == ("fail", {FILES: "full"})


def test_failures_of_a_service_end_with_the_service() -> None:
    before = document(record("serving.unit", "fail"))
    skipped = document(record("serving.unit", "skip", reason="no service runs from this environment"))
    assert reported(skipped, before) == [("serving.unit", "fail")]
    assert failed_levels(merge_rerun(skipped, before)) == {}


def test_the_last_run_of_each_level_is_stored_for_one_environment() -> None:
    full = runs_by_level(document(level="full"), {})
    both = runs_by_level(document(), {"environment": "e1", "runs": full})
    assert {level: run["started_at"] for level, run in both.items()} == {"full": "09:00", "standard": "12:00"}
    assert list(runs_by_level(document(environment="e2"), {"environment": "e1", "runs": full})) == ["standard"]
