"""Rules of the ranking, with invented causes."""

import io
from typing import Any

import pytest

from verify.doctor.catalog import parse_causes
from verify.doctor.engine import EMPTY, Diagnosis, Doctor
from verify.doctor.scoring import CONSEQUENCE_FACTOR, MAX_CONFIDENCE, OVERRIDDEN_FACTOR, SYMPTOMS_ONLY


def entry(name: str, *signatures: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "definition": name,
        "explanation": name,
        "references": [],
        "signature": [
            {"why": "the line reports it", "weight": 0.8, "role": "cause", **signature} for signature in signatures
        ],
        "fix": [{"text": "repair it"}],
        "check": {"command": "", "expect": "repaired"},
        **more,
    }


def diagnose(entries: list[dict[str, Any]], *texts: str, facts: dict[str, Any] | None = None) -> Diagnosis:
    doctor = Doctor(parse_causes({each["id"]: each for each in entries}))
    return doctor.diagnose({f"log{n}": io.BytesIO(text.encode()) for n, text in enumerate(texts)}, facts)


def confidences(diagnosis: Diagnosis) -> dict[str, float]:
    return {finding.cause.id: finding.confidence for finding in diagnosis.findings}


FIRE = entry("fire", {"pattern": "flames seen"}, {"pattern": "smoke seen", "weight": 0.5})
FLOOD = entry("flood", {"pattern": "water seen"})


def test_distinct_signatures_add_up_and_repeated_ones_do_not() -> None:
    assert confidences(diagnose([FIRE], "flames seen")) == {"fire": 0.8}
    assert confidences(diagnose([FIRE], "flames seen\n" * 9)) == {"fire": 0.8}
    assert confidences(diagnose([FIRE], "smoke seen\nflames seen")) == {"fire": 0.9}


def test_confidence_stays_below_one() -> None:
    sure = entry("fire", *({"pattern": f"flame{letter} seen", "weight": 1.0} for letter in "abc"))
    assert confidences(diagnose([sure], "flamea seen\nflameb seen\nflamec seen")) == {"fire": MAX_CONFIDENCE}


def test_symptoms_alone_have_a_maximum_confidence() -> None:
    weak = {"role": "symptom", "weight": 0.4}
    hazy = entry("fire", *({"pattern": f"{word} seen", **weak} for word in ("smoke", "soot", "heat")))
    assert confidences(diagnose([hazy], "smoke seen\nsoot seen\nheat seen")) == {"fire": SYMPTOMS_ONLY}


def test_without_a_finding_it_advises_where_to_look() -> None:
    vague = entry("fire", {"pattern": "smoke seen", "weight": 0.2})
    diagnosis = diagnose([vague], "smoke seen\nEngine core initialization failed. See root cause above.")
    assert not diagnosis.findings
    assert diagnosis.look_next[0].startswith("line 2 of log0: Engine core")
    assert diagnose([vague], "all is well").look_next
    assert diagnose([vague], "").look_next[0] == EMPTY


def test_counters_and_facts_change_the_confidence() -> None:
    rules = [
        {"path": "house.wood", "test": "equals", "value": "true", "effect": 0.5, "why": "wood burns"},
        {"path": "house.pool", "test": "not_null", "effect": -0.5, "why": "water is near"},
    ]
    against = [{"pattern": "barbecue today", "weight": 0.5, "why": "smoke has a reason"}]
    fire = entry("fire", {"pattern": "flames seen"}, counter=against, fact=rules)
    assert confidences(diagnose([fire], "flames seen", facts={"house": {"wood": True}})) == {"fire": 0.9}
    assert confidences(diagnose([fire], "flames seen", facts={"house": {"pool": "big"}})) == {"fire": 0.4}
    assert confidences(diagnose([fire], "flames seen", facts={"house": {"pool": None}})) == {"fire": 0.8}
    assert confidences(diagnose([fire], "barbecue today\nflames seen")) == {"fire": 0.4}
    assert not diagnose([fire], "nothing", facts={"house": {"wood": True}}).findings


def test_the_earlier_cause_ranks_first() -> None:
    assert confidences(diagnose([FIRE, FLOOD], "flames seen\nwater seen")) == {
        "fire": 0.8,
        "flood": round(0.8 * CONSEQUENCE_FACTOR, 3),
    }
    swapped = diagnose([FIRE, FLOOD], "water seen\nflames seen")
    assert list(confidences(swapped)) == ["flood", "fire"]
    assert swapped.findings[0].why == "before fire: it appears first, on line 1, the other on line 2"


def test_texts_count_in_the_given_order() -> None:
    assert list(confidences(diagnose([FIRE, FLOOD], "water seen", "flames seen"))) == ["flood", "fire"]


def test_a_tie_within_a_line_is_broken() -> None:
    both = diagnose([FIRE, FLOOD], "flames seen, water seen")
    assert list(confidences(both)) == ["fire", "flood"]


def test_a_cause_overrides_its_consequence_at_any_place() -> None:
    burst = entry(
        "burst", {"pattern": "pipe broke"}, overrides=[{"cause": "flood", "why": "the water came from the pipe"}]
    )
    diagnosis = diagnose([burst, FLOOD], "water seen\npipe broke")
    assert confidences(diagnosis) == {"burst": 0.8, "flood": round(0.8 * OVERRIDDEN_FACTOR, 3)}
    assert diagnosis.findings[0].why == "before flood: the water came from the pipe"


@pytest.mark.parametrize(("weight", "first"), [(0.9, "burst"), (0.6, "burst"), (0.5, "flood"), (0.35, "flood")])
def test_a_weak_cause_overrides_nothing_that_is_far_more_likely(weight: float, first: str) -> None:
    burst = entry(
        "burst", {"pattern": "pipe broke", "weight": weight}, overrides=[{"cause": "flood", "why": "from the pipe"}]
    )
    flood = entry("flood", {"pattern": "water seen", "weight": 0.9})
    found = diagnose([burst, flood], "water seen\npipe broke").findings
    assert found[0].cause.id == first
    assert ("from the pipe" in found[0].why) is (first == "burst")


def test_of_two_causes_that_override_each_other_the_likelier_does() -> None:
    one = entry("one", {"pattern": "bang heard", "weight": 0.9}, overrides=[{"cause": "two", "why": "louder"}])
    two = entry("two", {"pattern": "hiss heard", "weight": 0.8}, overrides=[{"cause": "one", "why": "longer"}])
    for text in ("bang heard\nhiss heard", "hiss heard\nbang heard"):
        assert confidences(diagnose([one, two], text)) == {"one": 0.9, "two": round(0.8 * OVERRIDDEN_FACTOR, 3)}


def test_a_harmless_complaint_never_ranks_before_a_cause() -> None:
    complaint = entry("complaint", {"pattern": "door squeaks", "weight": 0.9}, harmless=True)
    assert list(confidences(diagnose([complaint, FIRE], "door squeaks\nflames seen"))) == ["fire", "complaint"]
    assert confidences(diagnose([complaint, FIRE], "door squeaks")) == {"complaint": 0.9}


@pytest.mark.parametrize(("between", "found"), [(5, True), (20, True), (21, False), (40_000, False)])
def test_near_lines_are_within_twenty_lines(between: int, found: bool) -> None:
    picky = entry("fire", {"pattern": "flames seen", "near": "in the house"})
    gap = "\n".join(["in the house", *["a quiet line of an ordinary log"] * (between - 1), "flames seen"])
    assert bool(diagnose([picky], gap).findings) is found
    back = "\n".join(["flames seen", *["a quiet line of an ordinary log"] * (between - 1), "in the house"])
    assert bool(diagnose([picky], back).findings) is found


def test_a_line_without_its_near_line_does_not_hide_the_next_of_its_kind() -> None:
    picky = entry("fire", {"pattern": "flames seen", "near": "in the house"})
    text = "flames seen 1\n" + "quiet\n" * 99 + "flames seen 2\nin the house\n"
    assert diagnose([picky], text).findings[0].evidence.first.line == 101


def test_facts_are_extracted_from_the_text() -> None:
    rule = [{"path": "nvidia.driver_version", "test": "below", "value": "580", "effect": 0.5, "why": "old"}]
    fire = entry("fire", {"pattern": "flames seen"}, fact=rule)
    smi = "| NVIDIA-SMI 535.104.05   Driver Version: 535.104.05   CUDA Version: 12.2 |"
    assert confidences(diagnose([fire], f"{smi}\nflames seen")) == {"fire": 0.9}
    assert confidences(diagnose([fire], f"{smi.replace('535.104.05', '580.65.06')}\nflames seen")) == {"fire": 0.8}
    given = {"nvidia": {"driver_version": "590.48"}}
    assert confidences(diagnose([fire], f"{smi}\nflames seen", facts=given)) == {"fire": 0.8}
