"""The checks of attention give the evidence that the tables of the page read."""

from __future__ import annotations

import json
from itertools import product

import pytest

from provision.core.models.records import HostSummary
from provision.report.page.series import rules
from tests.report.page.test_series import tables
from tests.report.sample import check
from verify.attention.speed import SweepRow
from verify.checks.memory import attention as memory
from verify.checks.speed import throughput as speed
from verify.records import CheckContext, CheckResult


def host_with(outcome: CheckResult, id_: str) -> HostSummary:
    """Return a host with a check's result in the form of the run's records."""
    answer = json.loads(json.dumps(outcome.as_json()))
    record = check(id_, device="cuda:0", **{key: answer[key] for key in ("reason", "evidence", "figures")})
    return HostSummary.model_validate({"name": "a", "state": "serving", "changed": True, "checks": [record]})


def test_the_checks_give_the_evidence_that_the_page_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {"flash": {512: 1000, 1024: 2000, 2048: 4000}, "standard": {512: 9000, 1024: 36000}}
    monkeypatch.setattr(speed, "measure", lambda *_, **__: {"flash": 0.0001, "standard": 0.001})
    lengths = [
        SweepRow((1, length, 2, 64), causal, backward, 1e-6 * length, 4e-6 * length)
        for length, causal, backward in product((128, 256), (False, True), (False, True))
    ]
    monkeypatch.setattr(speed, "sweep", lambda *_: lengths)
    monkeypatch.setattr(speed, "synchronize", lambda *_: {})
    hosts = {
        "memory.attention": host_with(memory.evaluate(peaks, 10**9, {}), "memory.attention"),
        "speed.attention": host_with(speed.attention(CheckContext(device="cpu")), "speed.attention"),
    }
    forward, backward, peak = (tables(hosts[rule.check], rule=rule)[0] for rule in rules())
    assert peak.rows == (
        ("512", "1 kB", "9 kB"),
        ("1024", "2 kB", "36 kB"),
        ("2048", "4 kB", ""),
    )
    for times in (forward, backward):
        assert times.headers == (
            "length in tokens", "flash, ms", "standard, ms", "flash, causal, ms", "standard, causal, ms",
        )  # fmt: skip
        assert times.rows == (
            ("128", "0.128", "0.512", "0.128", "0.512"),
            ("256", "0.256", "1.024", "0.256", "1.024"),
        )
