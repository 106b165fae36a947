"""The line with the level and time of a host's last checks."""

from typing import Any

import pytest

from provision.report.wording import age, verified_line

NOW = "2026-11-20T12:00:00.000Z"


def document(**values: Any) -> dict[str, Any]:
    runs = {
        "standard": {"status": "ok", "started_at": "2026-11-20T11:55:00.000Z"},
        "full": {"status": "ok", "started_at": "2026-11-20T09:00:00.000Z"},
    }
    return {"status": "ok", "level": "standard", "environment": "e1", "runs": runs, "checks": [], **values}


def test_each_level_has_its_age_with_the_deepest_first() -> None:
    assert verified_line(document(), NOW, "e1") == "verified ok at full, 3 h ago; standard, 5 min ago"


def test_failed_checks_are_named_with_their_level_and_age() -> None:
    files = {"id": "libraries.files", "status": "fail", "level": "full", "found": {"at": "2026-11-19T12:00:00Z"}}
    gemm = {"id": "kernels.gemm", "status": "error", "level": "standard", "device": "cuda:1", "found": None}
    line = verified_line(document(status="error", checks=[files, gemm, {"id": "x.y", "status": "ok"}]), NOW)
    assert line.startswith("verified error at full, 3 h ago")
    assert line.endswith("; libraries.files: fail at full, found 24 h ago; kernels.gemm on cuda:1: error at standard")


def test_another_environment_than_the_live_one_is_named() -> None:
    assert verified_line(document(), NOW, "e1-2").endswith("; that was environment e1")


@pytest.mark.parametrize("last", [None, {}])
def test_a_host_that_was_never_checked_is_reported_as_such(last: Any) -> None:
    assert verified_line(last, NOW) == "never verified"


def test_a_document_of_an_earlier_release_is_read_as_far_as_possible() -> None:
    last = {"status": "ok", "level": "full", "started_at": "2026-11-20T11:59:30.000Z"}
    assert verified_line(last, NOW) == "verified ok at full, 30 s ago"
    assert verified_line({"status": "ok"}, NOW) == "verified ok"


def test_an_unreadable_time_is_shown_unchanged() -> None:
    assert age("yesterday", NOW) == "at yesterday"
