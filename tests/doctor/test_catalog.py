"""Every entry of the catalog: its form, its samples, and the bounded time of its patterns."""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from verify.doctor.catalog import (
    FOLDER,
    SYMPTOM_WEIGHT,
    Cause,
    FactRule,
    Override,
    Sample,
    Signature,
    load_causes,
    pack,
    parse_causes,
)
from verify.doctor.engine import diagnose_texts, doctor
from verify.doctor.patterns import EVERY_LINE, PatternIndex, text_kind
from verify.doctor.scanner import scan

CAUSES = {cause.id: cause for cause in load_causes()}
SHORT = 3
parser: Any = import_module("re._parser")


def each_cause() -> list[Any]:
    return [pytest.param(cause, id=cause.id) for cause in CAUSES.values()]


@pytest.mark.parametrize("cause", each_cause())
def test_an_entry_is_complete(cause: Cause) -> None:
    assert (FOLDER / f"{cause.id}.toml").exists()
    assert len(cause.definition.strip().splitlines()) == 1
    assert cause.explanation.strip()
    assert cause.references
    assert cause.check.expect.strip()
    assert any(signature.role == "cause" for signature in cause.signatures)
    assert {signature.role for signature in cause.signatures} <= {"cause", "symptom"}
    assert all(0 < item.weight <= 1 for item in [*cause.signatures, *cause.counters])
    assert all(item.weight <= SYMPTOM_WEIGHT for item in cause.signatures if item.role == "symptom")
    assert {rule.test for rule in cause.facts} <= {"below", "at_least", "equals", "contains", "is_null", "not_null"}
    assert all(-1 <= rule.effect <= 1 for rule in cause.facts)
    assert all(
        re.compile(text) for item in [*cause.signatures, *cause.counters] for text in (item.pattern, item.near or "")
    )
    assert cause.fixes
    reasons: list[Signature | FactRule | Override] = [*cause.signatures, *cause.counters, *cause.facts]
    assert all(item.why.strip() for item in [*reasons, *cause.overrides])
    assert all(fix.text.strip() for fix in cause.fixes)
    assert not [fix.text for fix in cause.fixes if fix.safe and "reboot" in fix.needs]
    assert {need for fix in cause.fixes for need in fix.needs} <= {"sudo", "reboot", "relogin", "network", "downtime"}
    assert {sample.is_cause for sample in cause.samples} == {True, False}


@pytest.mark.parametrize("cause", each_cause())
def test_no_fix_or_check_runs_a_program_that_is_gone(cause: Cause) -> None:
    """huggingface_hub 1.0 removed `huggingface-cli`; its program is `hf`. Source: its release notes."""
    commands = [*(fix.command for fix in cause.fixes), cause.check.command]
    assert [command for command in commands if "huggingface-cli" in command] == []


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


def test_patterns_do_not_backtrack() -> None:
    written = [text for pattern in doctor().index.patterns for text in (pattern.pattern, pattern.near or "")]
    assert not [text for text in written if [*repeats(parser.parse(text))]]


@pytest.mark.slow
def test_hostile_lines_take_bounded_time() -> None:
    """Lines of twenty times the maximum length, made of a sample of the literals."""
    index = doctor().index
    texts = sorted({text.decode() for groups in index.groups for group in groups for text in group if text})
    lines = [line for text in texts[::40] for line in ((text + "a") * (40_000 // len(text)), text + " " * 40_000)]
    assert scan(io.BytesIO("\n".join(lines).encode()), doctor().index, name="hostile").size


def test_few_patterns_see_every_line() -> None:
    slow = [pattern.pattern for pattern in doctor().index.patterns if PatternIndex.groups_of(pattern) == EVERY_LINE]
    assert len(slow) <= 2, slow
    unindexed = [doctor().index.patterns[number].pattern for number in doctor().index.unindexed]
    assert len(unindexed) <= 4, f"each line is searched for the digits of these: add a word to them: {unindexed}"


def test_a_kind_is_searched_by_each_pattern_that_matches_one_of_its_lines() -> None:
    lines = {line for cause in CAUSES.values() for sample in cause.samples for line in sample.text.splitlines()}
    for pattern in [doctor().index.patterns[number] for number in doctor().index.digits]:
        hidden = [
            line
            for line in lines
            if pattern.expression.search(line) and not pattern.kind_expression.search(text_kind(line))
        ]
        assert not hidden, f"{pattern.pattern}: {hidden}"


def test_packed_causes_equal_the_files_without_samples_references_and_messages() -> None:
    packed = pack()
    causes = parse_causes(json.loads(packed))
    assert [cause.id for cause in causes] == list(CAUSES)
    assert causes == tuple(replace(cause, samples=(), references=(), messages=()) for cause in CAUSES.values())
    assert packed == pack()
