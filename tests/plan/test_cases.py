"""Every case file: the Stack it expects, or the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from provision.phases.plan.rules import HOST_RULES, RULES
from tests.plan.cases import CASES, Case


def at(document: Any, path: str) -> Any:
    """A value by its dotted path; null when a step on the way is null."""
    for step in path.split("."):
        if document is None:
            return None
        document = document[int(step) if isinstance(document, list) else step]
    return document


EXTRA = {"driver-policy", "vllm-requested"}
"""Reasons that no rule gives: what an upgrade would bring, and that nothing of what was asked exists."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_case(case: Case) -> None:
    resolution = case.resolution()
    said = [reason for reason in resolution.reasons if reason.verdict == "reject"]
    if "refused" in case.expect:
        assert resolution.stack is None, resolution.stack
        assert said[0].rule == case.expect["refused"], said[0].text
        assert resolution.nearest is not None
        if "nearest" in case.expect:
            assert resolution.nearest.policy == case.expect["nearest"], resolution.nearest.text
        assert case.expect.get("opens", "") in resolution.nearest.text
    else:
        assert resolution.stack is not None, [f"{reason.candidate}: {reason.text}" for reason in said]
        stack = resolution.stack.model_dump(mode="json")
        wanted = {path: None if value == "" else value for path, value in case.expect["stack"].items()}
        assert {path: at(stack, path) for path in wanted} == wanted
    texts = "\n".join(reason.text for reason in resolution.reasons)
    for piece in case.expect.get("says", []):
        assert piece in texts
    assert set(case.expect.get("rejected", [])) <= {reason.rule for reason in said}
    warned = {reason.rule for reason in resolution.reasons if reason.verdict == "warn"}
    assert set(case.expect.get("warnings", [])) == warned
    assert set(case.expect.get("assumed", [])) <= set(resolution.assumptions)


ONE_SIDED = {
    "dependencies": "it holds dependencies back and refuses none",
    "imports": "it refuses releases by name and has nothing to say of the others",
    "provider": "it names who made a build and refuses none",
    "cuda-compat": "it refuses only what another rule refused before, where --why-not asks; tests/plan/test_why_not.py has both sides",
    "model-fit": "case files hold no model; tests/plan/test_model_fit.py has both sides",
}
"""Rules that the case files show from one side only, and why."""


def test_every_rule_is_shown_from_both_sides() -> None:
    seen: dict[str, set[str]] = {rule.id: set() for rule in (*HOST_RULES, *RULES)}
    for case in CASES:
        for reason in case.resolution().reasons:
            seen.setdefault(reason.rule, set()).add(reason.verdict)
    short = {
        name for name in seen if name not in EXTRA and not ("accept" in seen[name] and seen[name] & {"reject", "warn"})
    }
    assert short == set(ONE_SIDED)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 120
