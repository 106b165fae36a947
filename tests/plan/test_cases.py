"""Every case file: its expected Stack or refusal."""

from typing import Any

import pytest

from provision.phases.plan.rules import HOST_RULES, RULES
from tests.plan.cases import CASES, Case


def at(document: Any, path: str) -> Any:
    """Return the value at a dotted path; None if a step is None."""
    for step in path.split("."):
        if document is None:
            return None
        document = document[int(step) if isinstance(document, list) else step]
    return document


EXTRA = {"driver-policy", "vllm-requested"}
"""Reasons without a rule: a useful driver upgrade, and a request that the catalog cannot meet."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_has_its_expected_plan(case: Case) -> None:
    resolution = case.resolution()
    refusals = [reason for reason in resolution.reasons if reason.verdict == "reject"]
    if "refused" in case.expect:
        assert resolution.stack is None, resolution.stack
        assert refusals[0].rule == case.expect["refused"], refusals[0].text
        assert resolution.nearest is not None
        if "nearest" in case.expect:
            assert resolution.nearest.policy == case.expect["nearest"], resolution.nearest.text
        assert case.expect.get("opens", "") in resolution.nearest.text
    else:
        assert resolution.stack is not None, [f"{reason.candidate}: {reason.text}" for reason in refusals]
        stack = resolution.stack.model_dump(mode="json")
        wanted = {path: None if value == "" else value for path, value in case.expect["stack"].items()}
        assert {path: at(stack, path) for path in wanted} == wanted
    texts = "\n".join(reason.text for reason in resolution.reasons)
    for piece in case.expect.get("reasons", []):
        assert piece in texts
    assert set(case.expect.get("rejected", [])) <= {reason.rule for reason in refusals}
    warned = {reason.rule for reason in resolution.reasons if reason.verdict == "warn"}
    assert set(case.expect.get("warnings", [])) == warned
    assert set(case.expect.get("assumed", [])) <= set(resolution.assumptions)


ONE_SIDED = {
    "driver-advisories": "it warns of a driver and says nothing of others",
    "imports": "it refuses releases by name and has no verdict on others",
    "rights": "it tells a user what sudo would change and refuses nothing",
    "cuda-compat": "it refuses only what another rule has refused, for --why-not; tests/plan/test_why_not.py has both sides",
    "model-fit": "case files contain no model; tests/plan/test_model_fit.py has both sides",
    "gpus-used": "the same; it refuses nothing",
    "speculation": "the same; tests/plan/test_model_fit.py has both sides",
    "quantization": "the same; tests/plan/test_model_choices.py has both sides",
    "attention-layers": "the same; tests/plan/test_model_choices.py has its refusal, and it has no verdict on other models",
    "model-class": "the same; tests/plan/test_model_choices.py has both sides",
    "remote-code": "the same; tests/plan/test_model_choices.py has both sides",
    "serving-choices": "the same; tests/plan/test_model_choices.py has both sides",
}
"""Rules whose case files show only one verdict, with the reason."""


def test_every_rule_has_cases_for_both_verdicts() -> None:
    seen: dict[str, set[str]] = {rule.id: set() for rule in (*HOST_RULES, *RULES)}
    for case in CASES:
        for reason in case.resolution().reasons:
            seen.setdefault(reason.rule, set()).add(reason.verdict)
    short = {
        name for name in seen if name not in EXTRA and not ("accept" in seen[name] and seen[name] & {"reject", "warn"})
    }
    assert short == set(ONE_SIDED)
