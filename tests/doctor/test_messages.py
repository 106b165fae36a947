"""Messages in the files of the causes, and logs of healthy programs in `healthy.toml`."""

from __future__ import annotations

import tomllib

import pytest

from verify.doctor.catalog import Cause, load_causes
from verify.doctor.engine import diagnose_texts
from verify.doctor.scoring import SURE_AT
from verify.doctor.text_classifier import HEALTHY_FILE

HEALTHY: dict[str, str] = tomllib.loads(HEALTHY_FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("cause", [pytest.param(cause, id=cause.id) for cause in load_causes() if cause.messages])
def test_each_message_names_its_cause_first(cause: Cause) -> None:
    wrong = {}
    for message in cause.messages:
        named = [finding.cause.id for finding in diagnose_texts({"log": message}).findings]
        if named[:1] != [cause.id]:
            wrong[message] = named
    assert not wrong


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_log_has_no_finding(name: str) -> None:
    found = diagnose_texts({name: HEALTHY[name]}).findings
    assert not [(finding.cause.id, finding.confidence) for finding in found]


def test_all_healthy_logs_together_have_no_sure_finding() -> None:
    assert not [finding.cause.id for finding in diagnose_texts(HEALTHY).findings if finding.confidence >= SURE_AT]


@pytest.mark.parametrize("name", HEALTHY)
def test_a_failure_after_a_healthy_log_is_found(name: str) -> None:
    broken = "ImportError: libtorch_cuda.so: undefined symbol: ncclCommWindowRegister"
    found = diagnose_texts({"log": f"{HEALTHY[name]}\n{broken}\n"}).findings
    assert found[0].cause.id == "nccl-duplicate"
