"""Logs of failures: the first finding in `failures/CAUSE.log`, or `failures/CAUSE.DETAIL.log`, is CAUSE."""

from pathlib import Path

import pytest

from verify.doctor.engine import diagnose_texts

LOGS = sorted((Path(__file__).parent / "failures").glob("*.log"))


@pytest.mark.parametrize("log", [pytest.param(path, id=path.stem) for path in LOGS])
def test_a_log_has_the_cause_that_its_name_begins_with(log: Path) -> None:
    findings = diagnose_texts({log.name: log.read_text(encoding="utf-8")}).findings
    assert [finding.cause.id for finding in findings][:1] == [log.name.partition(".")[0]]
