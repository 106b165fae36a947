"""When `status` offers the service of a host."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import Exit, ServeError
from provision.core.models.facts import Drift, HostFacts, Installed
from provision.core.models.records import PhaseResult
from provision.pipeline import CommandRequest, host_status, operations
from provision.pipeline.host_status import ask_features, described, serving_of
from provision.run.context import RunContext
from provision.run.results import ProbedHosts
from provision.run.step import Step
from tests.pipeline.command_lines import inventory_of
from tests.pipeline.local_context import local_context, local_host, own_paths
from verify.tables import table

INSTALLED: dict[str, Any] = {
    "state": {"release": "1" * 16},
    "release": "1" * 16,
    "releases": ("1" * 16,),
    "environments": ("e",),
    "service": "active",
    "last_ready": {
        "release": "1" * 16,
        "record": {"endpoint": "http://127.0.0.1:8000/v1", "model": "m", "chat": True, "ready": True},
    },
}


def known(name: str = "a", **change: Any) -> HostFacts:
    """Return a host that serves, apart from a change."""
    installed = Installed(prefix="/p", **(INSTALLED | change))
    return HostFacts(host=name, probed_at="2026-01-03T00:00:00Z", installed=installed)


@pytest.mark.parametrize(
    "change",
    [
        {"service": "inactive"},
        {"release": "2" * 16},
        {"last_ready": None},
        {"last_ready": {"release": "1" * 16, "record": {"endpoint": "http://127.0.0.1:8000/v1"}}},
        {"last_ready": {"release": "1" * 16, "record": []}},
    ],
)
def test_a_service_that_nothing_proves_is_not_offered(change: dict[str, Any]) -> None:
    assert serving_of(local_host(), known()) is not None
    assert serving_of(local_host(), known(**change)) is None


@pytest.mark.parametrize(
    ("answer", "document", "text"),
    [
        (3, {"stream_errors": 3}, "; ended 3 streams with an error in the last 5 minutes"),
        (0, {"stream_errors": 0}, ""),
        (ServeError("no answer", hint="none"), None, ""),
    ],
    ids=["some", "none", "no answer"],
)
def test_streams_that_ended_with_an_error_are_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: int | ServeError,
    document: dict[str, Any] | None,
    text: str,
) -> None:
    """Neither the metrics of vLLM nor a gateway count them: the answer began with 200, and its end came."""

    def stream_errors(*_: Any, seconds: float, **__: Any) -> int:
        assert seconds == 60 * table("serving")["stream_error"]["minutes"]
        if isinstance(answer, ServeError):
            raise answer
        return answer

    state = {"readiness": {"port": 8000}}
    facts = {"a": known("a", state=state), "b": known("b", state=state, service="inactive")}
    monkeypatch.setattr(host_status, "stream_errors", stream_errors)
    monkeypatch.setattr(RunContext, "session", lambda *_: Silent())
    monkeypatch.setattr("provision.core.features.hooks", lambda _: iter(()))
    context = local_context(tmp_path, "ab")
    found = ask_features(context, ProbedHosts(facts, dict.fromkeys(facts, own_paths(Path("/p"))))).answer
    assert [part.document for part in found["a"]] == ([document] if document else [])
    assert found["b"] == []
    assert described(context.host("a"), facts["a"], serving=None, parts=found["a"]).endswith(f"verified{text}")
    assert not context.has_failed("a")


def test_adapters_are_named_with_their_model() -> None:
    # A newer release may record more.
    record = INSTALLED["last_ready"]["record"] | {"adapters": ["support", "tone"], "not known yet": 1}
    facts = known(last_ready=INSTALLED["last_ready"] | {"record": record})
    serving = serving_of(local_host(), facts)
    assert serving is not None
    assert serving["adapters"] == ["support", "tone"]
    line = described(local_host(), facts, serving=serving, parts=())
    assert line.startswith("model m with adapters support, tone at http://127.0.0.1:8000/v1")


CHANGE = Drift(kind="file", path="/p/etc/service.env", text="has 9 bytes, sealed with 8 bytes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"drift": (CHANGE,)}, "has 9 bytes, sealed with 8 bytes"),
        ({"service": "failed"}, "failed"),
        ({"service": "inactive"}, None),
        ({}, None),
    ],
    ids=["drift", "failed", "stopped", "none"],
)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "text"])
def test_a_change_or_a_failed_service_on_one_host_alone_makes_status_red(
    change: dict[str, Any],
    text: str | None,
    *,
    as_json: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every host answers, and no check failed."""

    def probe(context: RunContext, _earlier: Any) -> ProbedHosts:
        found = {}
        for host in context.hosts():
            context.record(PhaseResult(host=host.name, phase="probe", status="ok"))
            found[host.name] = known(host.name, **(change if host.name == "b" else {}))
        return ProbedHosts(found, dict.fromkeys(found, own_paths(Path("/p"))))

    monkeypatch.setattr(operations, "PROBE", Step("probe", probe, "probe", "all", reads_only=True))
    monkeypatch.setattr("provision.core.features.hooks", lambda _: iter(()))
    inventory = inventory_of(tmp_path, **{name: {"ansible_connection": "local"} for name in "ab"})
    request = CommandRequest("status", inventory, None, {}, tmp_path / "logs", as_json=as_json)
    assert operations.status(request) == (Exit.RED if text else Exit.OK)
    assert (text or "") in capsys.readouterr().out


class Silent:
    """A session that is not used."""

    def close(self) -> None:
        """Nothing is open."""
