"""What programs print when they fail, and when they do not: a data file each, a case is a line in it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from verify.doctor.catalog import catalogue
from verify.doctor.engine import diagnose_texts
from verify.doctor.score import SURE_AT

HERE = Path(__file__).resolve().parents[2] / "verify" / "doctor"
MESSAGES: dict[str, list[str]] = tomllib.loads((HERE / "messages.toml").read_text(encoding="utf-8"))
HEALTHY: dict[str, str] = tomllib.loads((HERE / "healthy.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("cause", MESSAGES)
def test_a_programs_own_message_names_its_cause(cause: str) -> None:
    wrong = {}
    for message in MESSAGES[cause]:
        named = [finding.cause.id for finding in diagnose_texts({"log": message}).findings]
        if named[:1] != [cause]:
            wrong[message] = named
    assert not wrong


def test_every_cause_has_messages() -> None:
    samples = {cause.id for cause in catalogue() if len([s for s in cause.samples if s.is_cause]) > 0}
    assert set(MESSAGES) <= samples
    assert samples - set(MESSAGES) == {"libnuma-missing", "service-killed", "service-stopped", "wheel-corrupted"}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_sure_where_all_is_well(name: str) -> None:
    found = diagnose_texts({name: HEALTHY[name]}).findings
    assert not [(finding.cause.id, finding.confidence) for finding in found]


def test_all_that_is_well_together_is_well_too() -> None:
    assert not [finding.cause.id for finding in diagnose_texts(HEALTHY).findings if finding.confidence >= SURE_AT]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_failure_after_what_went_well_is_still_found(name: str) -> None:
    broken = "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister"
    found = diagnose_texts({"log": f"{HEALTHY[name]}\n{broken}\n"}).findings
    assert found[0].cause.id == "nccl-duplicate"
