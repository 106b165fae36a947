"""Hosts that serve one model: they go through a run together, or not at all."""

from pathlib import Path

import pytest

from provision.core.errors import Exit, ServeError
from provision.core.models.records import ServeRecord
from provision.phases.plan.step import plan
from provision.run import spans
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from tests.pipeline.local_context import local_context


def run_of(folder: Path, names: str = "abc") -> RunContext:
    """A run over hosts of which `a` and `b` serve one model."""
    return local_context(folder, names, together="ab")


def left(context: RunContext) -> str:
    return "".join(host.name for host in context.hosts())


def test_a_host_whose_partner_failed_changes_nothing(tmp_path: Path) -> None:
    context = run_of(tmp_path)
    spans.refuse_parts(context, "serve")
    assert left(context) == "abc"
    context.fail("b", "install", ServeError("broken"))
    spans.refuse_parts(context, "serve")
    assert left(context) == "c"
    assert context.outcomes.results["a"]["serve"].text == "it serves a model together with `b`, which failed"
    assert str(context.outcomes.results["a"]["serve"].hint).endswith("; nothing of this one was switched")


def test_a_host_that_was_switched_does_not_wait_for_one_that_failed(tmp_path: Path) -> None:
    context = run_of(tmp_path)
    context.fail("b", "serve", ServeError("broken"))
    spans.refuse_parts(context, "serve", switched=True)
    assert left(context) == "c"
    assert str(context.outcomes.results["a"]["serve"].hint).endswith("; this one waits for it")


def test_a_host_whose_partner_the_limit_leaves_out_is_a_wrong_usage(tmp_path: Path) -> None:
    context = run_of(tmp_path, "bc")
    spans.refuse_parts(context, "plan")
    assert (left(context), context.outcomes.failures) == ("c", {Exit.USAGE})
    assert context.outcomes.results["b"]["plan"].hint == "name all of them: --limit a,b"


def test_a_part_of_a_span_is_refused_before_it_is_planned(tmp_path: Path) -> None:
    context = run_of(tmp_path, "b")
    plan(context, ProbedHosts())
    assert context.outcomes.failures == {Exit.USAGE}
    assert "and --limit leaves that out" in str(context.outcomes.results["b"]["plan"].text)


@pytest.mark.parametrize("other", ["1", "2"])
def test_unequal_hosts_are_refused_with_what_differs(tmp_path: Path, other: str) -> None:
    context = run_of(tmp_path)
    parts = {"a": {"vLLM": "1", "torch": "3"}, "b": {"vLLM": other, "torch": "3"}, "c": {"vLLM": "9", "torch": "9"}}
    spans.refuse_unequal(context, "plan", parts)
    assert left(context) == ("abc" if other == "1" else "c")
    if other == "2":
        texts = {context.outcomes.results[name]["plan"].text for name in "ab"}
        assert texts == {"`a` and `b` are to serve one model together, and differ in vLLM: 1 and 2"}


def test_hosts_of_a_span_are_up_to_date_together(tmp_path: Path) -> None:
    context = run_of(tmp_path)
    assert spans.whole(context, {"a", "b", "c"}) == {"a", "b", "c"}
    assert spans.whole(context, {"a", "c"}) == {"c"}


def test_one_host_that_is_not_ready_makes_all_of_its_span_unready(tmp_path: Path) -> None:
    context = run_of(tmp_path)
    good, bad = ServeRecord(ready=True), ServeRecord(ready=False, text="no layers")
    found = spans.with_one_verdict(context, "abc", {"a": good, "b": bad, "c": good})
    assert [found[name].ready for name in "abc"] == [False, False, True]
    assert found["a"].text == "`b` serves the same model, and is not ready: no layers"
    assert not spans.with_one_verdict(context, "ab", {"b": good})["b"].ready, "its head could not be asked"
    assert spans.with_one_verdict(context, "b", {"b": good})["b"].ready, "its head was proven before"
