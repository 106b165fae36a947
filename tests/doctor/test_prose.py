"""Texts without a failure: documentation, the summary of a green run, and words that contain a shorter sign."""

import functools
import io
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from verify.doctor.catalog import load_causes
from verify.doctor.engine import Doctor, diagnose_texts
from verify.doctor.scoring import SURE_AT

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES_OF_FAILURES = {
    "causes.md",
    "checks.md",
    "doctor.md",
    "trouble.md",
    "model-fit.md",
    "drivers.md",
    "matching.md",
    "serving.md",
    "inventory.md",
    "plan.md",
}
"""Pages that quote programs, or name failures that a setting prevents or a check finds."""
PAGES = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name not in PAGES_OF_FAILURES)
SAMPLES = README + (ROOT / "docs/reference/summary.md").read_text(encoding="utf-8")
SUMMARIES = [block for block in re.findall(r"```text\n(.*?)```", SAMPLES, re.DOTALL) if "GREEN" in block]
LONGER = (
    *(
        "allowed",
        "architecture",
        "array",
        "barrier",
        "biosphere",
        "calibration",
        "cardinal",
        "chip",
        "closest",
        "diagram",
    ),
    *(
        "discard",
        "display",
        "exchange",
        "exported",
        "field",
        "follow",
        "forgotten",
        "framework",
        "gray",
        "hidden",
        "hold",
    ),
    *("household", "imported", "install", "library", "migration", "muslin", "network", "nicely", "offload", "output"),
    *(
        "planet",
        "relationship",
        "research",
        "phase",
        "router",
        "ship",
        "shmoo",
        "skilled",
        "spring",
        "string",
        "threshold",
    ),
    *("throughput", "transport", "tripod", "unique", "upload", "useful", "whip", "workload", "zoom"),
)
"""Words that contain `low`, `arch`, `bar`, `bios`, `chip`, `hip`, `hang`, `port`, `musl`, `oom`, `stall` and others."""
USUAL = (
    "the",
    "of",
    "with",
    "and",
    "model",
    "server",
    "request",
    "tokens",
    "after",
    "seconds",
    "worker",
    "nccl",
    "gpu",
    "failed",
    "not",
)


@functools.cache
def by_lines() -> Doctor:
    """The doctor without the text classifier."""
    return Doctor(load_causes())


def named(text: str) -> list[tuple[str, float]]:
    found = by_lines().diagnose({"prose": io.BytesIO(text.encode())}).findings
    return [(finding.cause.id, finding.confidence) for finding in found]


def test_there_are_pages_and_a_summary() -> None:
    assert len(PAGES) > len(PAGES_OF_FAILURES)
    assert SUMMARIES


def test_the_readme_has_no_finding() -> None:
    assert not diagnose_texts({"README.md": README}).findings


@pytest.mark.parametrize("summary", SUMMARIES)
def test_the_summary_of_a_green_run_has_no_finding(summary: str) -> None:
    assert not diagnose_texts({"summary.txt": summary}).findings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documentation_has_no_sure_finding(page: Path) -> None:
    assert [each for each in named(page.read_text(encoding="utf-8")) if each[1] >= SURE_AT] == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from((*LONGER, *USUAL)), min_size=4, max_size=14))
@example(["allowed", "tripod", "closest", "gpu"])
def test_a_word_that_contains_a_sign_has_no_finding(words: list[str]) -> None:
    assert not named(f"INFO 11-20 08:02:31 [worker.py:80] {' '.join(words)}")
