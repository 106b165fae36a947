"""The text classifier: it guesses only at short texts that complain, with a low confidence, and never against a line."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.doctor.catalog import load_causes
from verify.doctor.engine import GUESSED, Doctor, diagnose_texts
from verify.doctor.scoring import GUESS_BYTES
from verify.doctor.text_classifier import HEALTHY, HIGHEST, LOWEST, TextClassifier, load_classifier, stems

TEXTS = {
    "fire": ["smoke and flames in the kitchen", "the oven burns", "flames from the oven"],
    "flood": ["water in the cellar", "the tap drips", "a pipe burst and water rose"],
    "frost": ["ice on the window", "the pipe froze", "snow before the door"],
    HEALTHY: ["the kitchen is warm", "the window is closed, the door is not"],
}
LEARNED = TextClassifier.learn(TEXTS)


def guessed(text: str) -> str | None:
    guess = LEARNED.guess([text])
    return guess.cause if guess else None


PROBLEM = "a problem: smoke, it burns and burns, {}"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(PROBLEM, None, id="too few words"),
        pytest.param("smoke flames oven burns", None, id="no complaint"),
        pytest.param("the kitchen is not warm, the window is closed", None, id="like a healthy program"),
        pytest.param("nothing of this is known, it fails", None, id="unknown words"),
    ],
)
def test_texts_that_are_not_guessed_at(text: str, cause: str | None) -> None:
    assert guessed(text) == cause


@pytest.mark.parametrize("cause", ["ninja-missing", "musl", "secure-boot", "shm-too-small"])
def test_a_definition_is_classified_as_its_own_cause(cause: str) -> None:
    entry = next(each for each in load_causes() if each.id == cause)
    guess = load_classifier().guess([f"it fails: {entry.definition} {entry.explanation}"])
    assert guess is not None
    assert (guess.cause, guess.confidence) == (cause, HIGHEST)
    assert guess.words


ASKED = "why do the ranks of both cards wait for data that never comes, does the hypervisor send these writes astray?"


def test_a_guess_has_a_low_confidence_and_shows_its_lines() -> None:
    text = f"it was quiet\n{ASKED}\n"
    diagnosis = diagnose_texts({"note": text})
    assert [finding.cause.id for finding in diagnosis.findings] == ["nccl-p2p"]
    assert LOWEST <= diagnosis.findings[0].confidence <= HIGHEST
    assert diagnosis.findings[0].evidence.first.line == 2


def test_without_a_classifier_nothing_is_guessed() -> None:
    alone = Doctor(load_causes()).diagnose({"note": io.BytesIO(ASKED.encode())})
    assert [finding.confidence for finding in alone.findings if finding.confidence >= LOWEST] == []


def test_a_long_text_is_not_guessed_at() -> None:
    found = diagnose_texts({"note": ASKED + " x" * GUESS_BYTES}).findings
    assert GUESSED not in [finding.why for finding in found]


def test_a_line_ranks_before_a_guess() -> None:
    text = (
        "OSError: [Errno 98] Address already in use\nwhy does the build use one core, flash attention, ninja missing?"
    )
    assert diagnose_texts({"note": text}).findings[0].cause.id == "port-in-use"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_accepted(text: str) -> None:
    load_classifier().guess(text.split("\n"))
    assert all(word == word.lower() for word in stems(text))
