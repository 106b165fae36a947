"""Guessing by words: only short texts that complain, never more than possible, and never against a line that tells."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verify.doctor.catalog import catalogue, words
from verify.doctor.engine import Doctor, diagnose_texts
from verify.doctor.score import GUESS_BYTES
from verify.doctor.words import HEALTHY, HIGHEST, LOWEST, Words, stems

SAID = {
    "fire": ["smoke and flames in the kitchen", "the oven burns", "flames from the oven"],
    "flood": ["water in the cellar", "the tap drips", "a pipe burst and water rose"],
    "frost": ["ice on the window", "the pipe froze", "snow before the door"],
    HEALTHY: ["the kitchen is warm", "the window is closed, the door is not"],
}
LEARNED = Words.learn(SAID)
KNOWN = words() or LEARNED


def guessed(text: str) -> str | None:
    guess = LEARNED.guess(text)
    return guess.cause if guess else None


PROBLEM = "a problem: smoke, it burns and burns, {}"


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        pytest.param(PROBLEM, None, id="few words tell little"),
        pytest.param("smoke flames oven burns", None, id="it complains of nothing"),
        pytest.param("the kitchen is not warm, the window is closed", None, id="as when all is well"),
        pytest.param("nothing of this is known, it fails", None, id="words of no cause"),
    ],
)
def test_what_is_left_open(text: str, cause: str | None) -> None:
    assert guessed(text) == cause


@pytest.mark.parametrize("cause", ["ninja-missing", "musl", "secure-boot", "shm-too-small"])
def test_a_definition_is_guessed_to_be_its_own_cause(cause: str) -> None:
    entry = next(each for each in catalogue() if each.id == cause)
    guess = KNOWN.guess(f"it fails: {entry.definition} {entry.explanation}")
    assert guess is not None
    assert (guess.cause, guess.confidence) == (cause, HIGHEST)
    assert guess.words


ASKED = "why do the ranks of both cards wait for data that never comes, does the hypervisor send these writes astray?"


def test_a_guess_is_possible_at_most_and_shows_its_lines() -> None:
    text = f"all was quiet\n{ASKED}\n"
    diagnosis = diagnose_texts({"note": text})
    assert [finding.cause.id for finding in diagnosis.findings] == ["nccl-p2p"]
    assert LOWEST <= diagnosis.findings[0].confidence <= HIGHEST
    assert diagnosis.findings[0].evidence.first.line == 2


def test_without_words_nothing_is_guessed() -> None:
    alone = Doctor(catalogue()).diagnose({"note": io.BytesIO(ASKED.encode())})
    assert [finding.confidence for finding in alone.findings if finding.confidence >= LOWEST] == []


def test_a_long_text_is_a_log_and_not_guessed_at() -> None:
    assert KNOWN.guess(ASKED) is not None
    assert KNOWN.guess(ASKED + " x" * GUESS_BYTES) is None


def test_a_line_that_tells_stands_before_a_guess() -> None:
    text = (
        "OSError: [Errno 98] Address already in use\nwhy does the build use one core, flash attention, ninja missing?"
    )
    assert diagnose_texts({"note": text}).findings[0].cause.id == "port-in-use"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_no_text_stops_it(text: str) -> None:
    KNOWN.guess(text)
    assert all(word == word.lower() for word in stems(text))
