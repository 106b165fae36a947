"""Trials of several hosts in a run: when they are made, and what follows from them."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.inventory import Span
from provision.features.multinode import step as span_start
from provision.phases.verify import step as verify
from provision.phases.verify.run_checks import CheckOptions
from provision.run.results import StagedHosts
from tests.pipeline.test_verify import _two_well_and_one_ill, check, context_of, probed_hosts
from verify.records import FLEET, NETWORK, CheckResult, as_record

__all__ = ["_two_well_and_one_ill"]


def meetings(monkeypatch: pytest.MonkeyPatch, result: CheckResult) -> list[list[str]]:
    """Let each trial have this result; return the hosts of each, as they meet."""
    tried: list[list[str]] = []

    def meet(openers: Any, _: object) -> dict[str, Any]:
        tried.append(list(openers))
        return as_record(NETWORK, None, None, result, 0.1)

    monkeypatch.setattr("provision.features.multinode.coordinator.meet", meet)
    return tried


def test_multihost_trials_run_only_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = meetings(monkeypatch, CheckResult("warn", "no interface joins the 2 hosts"))
    context = context_of(tmp_path, "a", "b", "broken")
    check(context, CheckOptions("standard", multihost=True))
    assert tried == [["a", "b"]], "the third host has no torch"
    kept = json.loads(context.run.path("host_comparison.json").read_bytes())["checks"]
    assert [record["id"] for record in kept] == [FLEET, NETWORK]
    check(context, CheckOptions("standard"))
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("status", "settings", "failed"),
    [("ok", {"a": "eth0"}, ""), ("warn", {"a": "eth0"}, ""), ("error", {}, ""), ("warn", {}, "ab"), ("fail", {}, "ab")],
)
def test_hosts_of_a_span_that_exchange_no_numbers_do_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: Any, settings: dict[str, str], failed: str
) -> None:
    tried = meetings(monkeypatch, CheckResult(status, "ports are closed", (), {"settings": settings}, "open them"))
    monkeypatch.setattr(verify, "recompute_desired", lambda *_: None)
    context = context_of(tmp_path, "a", "b", "c")
    span = Span(members=("a", "b"), addresses=("10.0.0.1", "10.0.0.2"))
    hosts = [one.model_copy(update={"span": span if one.name in "ab" else None}) for one in context.inventory.hosts]
    context.inventory = context.inventory.model_copy(update={"hosts": tuple(hosts)})
    span_start.prepare(context, verify.verify(context, StagedHosts(**vars(probed_hosts(context)))))
    assert tried == [["a", "b"]]
    assert "".join(name for name in "abc" if context.has_failed(name)) == failed
    if failed:
        result = context.outcomes.results["a"]["verify"]
        text = "hosts `a`, `b` are to serve one model together, and do not exchange numbers: ports are closed"
        assert (result.text, result.hint) == (text, "open them")
