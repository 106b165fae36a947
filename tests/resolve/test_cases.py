"""Every case file: the Stack it expects, or the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from tests.resolve.cases import CASES, Case


def at(document: Any, path: str) -> Any:
    """A value by its dotted path; null when a step on the way is null."""
    for step in path.split("."):
        if document is None:
            return None
        document = document[int(step) if isinstance(document, list) else step]
    return document


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


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 100
