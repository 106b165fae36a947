"""The doctor of a failed run reads the phase's text first, then the host's own logs; hosts that did not fail are not read."""

import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import IndexUnreachableError, NoStackError
from provision.core.models.records import PhaseResult
from provision.phases.plan import step as plan
from provision.phases.plan.rules import HOST_RULES, RULES
from provision.phases.probe.failure_evidence import Source
from provision.pipeline import failure_evidence
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from tests.pipeline.local_context import local_context, own_paths
from verify.doctor.catalog import load_causes

PORT = "preflight refuses: port 8000 is held by process 7 (python3) of root"
LIBRARY = "OSError: libnuma.so.1: cannot open shared object file: No such file or directory"


@pytest.fixture
def context(tmp_path: Path) -> RunContext:
    return local_context(tmp_path, ["n1"])


def diagnose(context: RunContext) -> None:
    failure_evidence.diagnose(context, ProbedHosts(install_paths={"n1": own_paths(context.cache)}))


def found(context: RunContext) -> list[str]:
    path = context.run.path("findings/n1.json")
    return [finding["cause"] for finding in json.loads(path.read_bytes())] if path.exists() else []


def answer_with(monkeypatch: pytest.MonkeyPatch, *sources: Source, error: BaseException | None = None) -> None:
    def collect(*_: Any, **__: Any) -> tuple[Source, ...]:
        if error is not None:
            raise error
        return sources

    monkeypatch.setattr(failure_evidence, "collect", collect)


def test_the_journal_of_a_host_is_read_after_the_text_of_the_phase(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"), Source("kernel", "", "dmesg is not there"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="the service ended while it started"))
    diagnose(context)
    assert found(context) == ["libnuma-missing"]
    assert context.run.path("evidence/n1/service_journal.txt").read_text() == f"{LIBRARY}\n"
    assert not context.run.path("evidence/n1/kernel.txt").exists()


def test_the_phases_text_comes_first(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="it did not start", evidence=(PORT,)))
    diagnose(context)
    assert found(context)[0] == "port-in-use"


def test_evidence_is_kept_without_secrets(context: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, Source("service_journal", f"VLLM_API_KEY=abcdefgh12345678 \n{LIBRARY}\n"))
    context.record(PhaseResult(host="n1", phase="serve", status="failed", text="it did not start"))
    diagnose(context)
    assert "abcdefgh12345678" not in context.run.path("evidence/n1/service_journal.txt").read_text()


def test_a_host_is_read_only_after_a_phase_that_worked_on_it(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, Source("service_journal", f"{LIBRARY}\n"))
    text = "no combination of versions fits host `n1`: glibc 2.17"
    context.record(PhaseResult(host="n1", phase="plan", status="failed", text=text))
    diagnose(context)
    assert not context.run.path("evidence").exists()


def test_a_host_that_no_longer_answers_is_diagnosed_by_its_phase(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_with(monkeypatch, error=OSError("gone"))
    context.record(PhaseResult(host="n1", phase="install", status="failed", text="No space left on device"))
    diagnose(context)
    assert found(context) == ["disk-full"]


def test_a_cause_named_by_the_phase_is_not_searched_in_its_text(context: RunContext) -> None:
    install_paths = {
        "https://wheels.vllm.ai/0.31.0/cu129": "HTTP 403",
        "https://download.pytorch.org/whl/cu129": "HTTP 403",
    }
    context.fail("n1", "stage", IndexUnreachableError(install_paths, ["vllm 0.31.0 for Python 3.13"]))
    diagnose(context)
    [finding] = json.loads(context.run.path("findings/n1.json").read_bytes())
    assert (finding["cause"], finding["confidence"]) == ("index-unreachable", 1.0)
    assert finding["fix"]
    assert finding["evidence"] == ["stage: wheels.vllm.ai and download.pytorch.org cannot be reached (HTTP 403)"]


def test_texts_of_planning_are_not_classified(context: RunContext) -> None:
    text = "no combination of versions fits host `n1`: torch 2.13.0 has no wheel for Python 3.13"
    context.fail("n1", "plan", NoStackError(text))
    diagnose(context)
    assert found(context) == []


def test_causes_of_rules_are_known_to_the_doctor() -> None:
    named = {rule.cause for rule in (*HOST_RULES, *RULES)} - {None}
    assert named
    assert named <= {cause.id for cause in load_causes()}
    assert plan.cause_of("driver-floor") == "driver-too-old"
    assert plan.cause_of("machine") is None
