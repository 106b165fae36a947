"""Every entry of the catalog: its form, its samples, and the bounded time of its patterns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from verify.doctor.catalog import (
    NEEDS,
    CatalogError,
    Cause,
    Counter,
    FactRule,
    Override,
    Sample,
    Signature,
    load_causes,
    pack,
    parse_causes,
)
from verify.doctor.engine import Doctor, diagnose_texts, doctor
from verify.doctor.patterns import EVERY_LINE, PatternIndex, bound_repeats
from verify.doctor.scanner import scan_text

CAUSES = {cause.id: cause for cause in load_causes()}
SHORT = 3
parser: Any = import_module("re._parser")


def each_cause() -> list[Any]:
    return [pytest.param(cause, id=cause.id) for cause in CAUSES.values()]


@pytest.mark.parametrize("cause", each_cause())
def test_an_entry_is_complete(cause: Cause) -> None:
    assert cause.definition.strip()
    assert cause.explanation.strip()
    assert cause.references
    assert cause.check.expect.strip()
    assert any(signature.role == "cause" for signature in cause.signatures)
    reasons: list[Signature | Counter | FactRule | Override] = [*cause.signatures, *cause.counters, *cause.facts]
    assert all(item.why.strip() for item in [*reasons, *cause.overrides])
    assert all(fix.text.strip() for fix in cause.fixes)
    assert not [fix.text for fix in cause.fixes if fix.safe and "reboot" in fix.needs]
    assert {need for fix in cause.fixes for need in fix.needs} <= set(NEEDS)
    assert {sample.is_cause for sample in cause.samples} == {True, False}


def test_relations_name_other_causes() -> None:
    for cause in CAUSES.values():
        assert {other.cause for other in cause.overrides} <= set(CAUSES) - {cause.id}, cause.id
        assert {sample.expect for sample in cause.samples} - {""} <= set(CAUSES), cause.id


def expected(cause: Cause, sample: Sample) -> list[str]:
    """The first cause that a sample must have; none if it only looks like one."""
    if sample.is_cause:
        return [cause.id]
    return [sample.expect] if sample.expect else []


@pytest.mark.parametrize("cause", each_cause())
def test_a_sample_has_its_expected_cause(cause: Cause) -> None:
    wrong = {}
    for sample in cause.samples:
        named = [finding.cause.id for finding in diagnose_texts({"log": sample.text}).findings]
        if named[:1] != expected(cause, sample):
            wrong[sample.text] = named
    assert not wrong


def repeats(parsed: Any, *, inside: bool = False) -> Iterator[str]:
    """Yield repeats without a maximum, and long repeats within each other: their time explodes."""
    for operation, value in parsed:
        name = str(operation)
        long = name in ("MAX_REPEAT", "MIN_REPEAT") and value[1] > SHORT
        if long and (inside or value[1] == parser.MAXREPEAT):
            yield name
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            yield from repeats(value[2], inside=inside or long)
        elif name == "SUBPATTERN":
            yield from repeats(value[3], inside=inside)
        elif name == "BRANCH":
            for branch in value[1]:
                yield from repeats(branch, inside=inside)


def patterns(cause: Cause) -> list[str]:
    items: list[Signature | Counter] = [*cause.signatures, *cause.counters]
    return [item.pattern for item in items] + [item.near for item in items if item.near]


def test_patterns_do_not_backtrack() -> None:
    for cause in CAUSES.values():
        for pattern in patterns(cause):
            assert not list(repeats(parser.parse(bound_repeats(pattern)))), f"{cause.id}: {pattern}"


@pytest.mark.slow
def test_hostile_lines_take_bounded_time() -> None:
    """Lines of twenty times the maximum length, made of a sample of the literals."""
    index = doctor().index
    texts = sorted({text.decode() for groups in index.groups for group in groups for text in group if text})
    lines = [line for text in texts[::40] for line in ((text + "a") * (40_000 // len(text)), text + " " * 40_000)]
    assert scan_text("\n".join(lines), doctor().index, name="hostile").lines == len(lines)


def test_few_patterns_see_every_line() -> None:
    slow = [pattern.pattern for pattern in doctor().index.patterns if PatternIndex.groups_of(pattern) == EVERY_LINE]
    assert len(slow) <= 2, slow
    unindexed = [doctor().index.patterns[number].pattern for number in doctor().index.unindexed]
    assert len(unindexed) <= 4, f"each line is searched for the digits of these: add a word to them: {unindexed}"


def test_packed_causes_equal_the_files_without_samples_references_and_messages() -> None:
    packed = pack()
    causes = parse_causes(json.loads(packed))
    assert [cause.id for cause in causes] == list(CAUSES)
    assert causes == tuple(replace(cause, samples=(), references=(), messages=()) for cause in CAUSES.values())
    assert packed == pack()


GOOD: dict[str, Any] = {
    "id": "door-stuck",
    "definition": "The door is stuck.",
    "explanation": "Wood swells.",
    "references": [],
    "signature": [{"pattern": "door is stuck", "weight": 0.9, "role": "cause", "why": "the line reports it"}],
    "fix": [{"text": "Plane it"}],
    "check": {"command": "", "expect": "it opens"},
}
SIGNATURE = GOOD["signature"][0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"id": "door"}, "the file's name is `door-stuck`"),
        ({"signature": []}, "no [[signature]]"),
        ({"fix": []}, "no [[fix]]"),
        ({"signature": [{**SIGNATURE, "weight": 1.5}]}, "weight 1.5 of a cause"),
        ({"signature": [{**SIGNATURE, "role": "symptom"}]}, "weight 0.9 of a symptom"),
        ({"signature": [{**SIGNATURE, "role": "witness"}]}, "role `witness`"),
        ({"signature": [{**SIGNATURE, "colour": "red"}]}, "unknown key colour in signature"),
        ({"fact": [{"path": "os.id", "test": "like", "effect": 0.1, "why": "-"}]}, "test `like`"),
        ({"fact": [{"path": "os.id", "test": "equals", "effect": 2.0, "why": "-"}]}, "effect 2.0 of os.id"),
        ({"fix": [{"text": "Pray", "needs": ["luck"]}]}, "a fix needs luck"),
        ({"definition": "one\ntwo"}, "more than one line"),
    ],
)
def test_an_invalid_entry_is_refused_by_name(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(CatalogError) as raised:
        parse_causes({"door-stuck": {**GOOD, **change}})
    assert "door-stuck" in str(raised.value)
    assert problem in str(raised.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(CatalogError, match="no key 'check'"):
        parse_causes({"door-stuck": {key: value for key, value in GOOD.items() if key != "check"}})


def test_an_invalid_expression_is_refused_with_its_text() -> None:
    with pytest.raises(CatalogError, match=r"`door \(is` is not a regular expression"):
        Doctor(parse_causes({"door-stuck": {**GOOD, "signature": [{**SIGNATURE, "pattern": "door (is"}]}}))
