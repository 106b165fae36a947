"""The audit of locked packages by the real `uv audit`; the service for vulnerabilities is on this machine."""

import json
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provision.core.errors import StageError
from provision.core.models.records import PhaseResult
from provision.features.audit import step as audit
from provision.run.results import StagedHosts
from tests.pipeline.local_context import local_context
from tests.verify.served import Answering, served

LOCK = "jinja2==3.1.2 \\\n    --hash=sha256:00\ntorch==2.6.0+cu126 \\\n    --hash=sha256:01\n"
IDS = {
    "jinja2": ["GHSA-0000-0000-0001"],
    "torch": ["GHSA-0000-0000-0002", "GHSA-0000-0000-0003", "GHSA-0000-0000-0004"],
}
ALIASES = {"GHSA-0000-0000-0001": "CVE-2099-1", "GHSA-0000-0000-0002": "CVE-2025-32434"}
"""The last one is in the catalog."""


class Service(ThreadingHTTPServer):
    """Answers as the public services for vulnerabilities do."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(Answering):
    server: Service

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        asked = self.server.asked
        asked += [(query["package"]["name"], query["version"]) for query in json.loads(self.received())["queries"]]
        self.answer({"results": [{"vulns": [*map(_short, IDS[name])]} for name, _ in asked]})

    def do_GET(self) -> None:  # noqa: N802 - as above
        self.answer(_whole(self.path.rpartition("/")[2]))


def _short(identity: str) -> dict[str, str]:
    return {"id": identity, "modified": "2026-01-01T00:00:00Z"}


def _whole(identity: str) -> dict[str, Any]:
    package = next(name for name, ids in IDS.items() if identity in ids)
    ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "3.1.6"}]}] if package == "jinja2" else []
    affected = [{"package": {"ecosystem": "PyPI", "name": package}, "ranges": ranges}]
    aliases = [ALIASES[identity]] if identity in ALIASES else []
    return {**_short(identity), "aliases": aliases, "summary": "a hole", "affected": affected}


@pytest.fixture
def service() -> Iterator[Service]:
    with served(Service()) as found:
        yield found


def test_vulnerabilities_beyond_the_catalog_are_told(service: Service) -> None:
    packages = audit.packages_of(LOCK)
    answer = audit.ask(packages, service.address)
    assert sorted(service.asked) == [("jinja2", "3.1.2"), ("torch", "2.6.0")]
    assert audit.note_of(answer, packages) == (
        "2 of 2 packages have published vulnerabilities that the catalog does not judge (audit.json has all): "
        "jinja2 3.1.2: GHSA-0000-0000-0001, fixed in 3.1.6; torch 2.6.0: GHSA-0000-0000-0003 and 1 more"
    )
    assert audit.note_of(answer, {("torch", "2.7.0")}) is None


def test_several_locks_are_one_question(service: Service) -> None:
    audit.ask({("torch", "2.6.0"), ("torch", "2.7.0")}, service.address)
    assert sorted(service.asked) == [("torch", "2.6.0"), ("torch", "2.7.0")]


def test_the_file_has_what_was_found_in_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(audit, "ask", partial(audit.ask, service=service.address))
    context = local_context(tmp_path, "ab", settings={"audit": True})
    for host, lock in zip("ab", LOCK.replace(" \\\n   ", "").splitlines(), strict=True):
        context.record(PhaseResult(host=host, phase="stage", status="ok"))
        (tmp_path / host).write_text(lock)
        service.asked.clear()
        audit.apply(context, cast("StagedHosts", SimpleNamespace(staged={host: SimpleNamespace(lock=tmp_path / host)})))
    found = json.loads(context.run.path(audit.FILE).read_text())["vulnerabilities"]
    assert [row["id"] for row in found] == [*IDS["jinja2"], *IDS["torch"]]


def test_a_service_that_cannot_be_reached_is_one_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    (tmp_path / "lock").write_text(LOCK)
    context = local_context(tmp_path, "a", settings={"audit": True})
    context.record(PhaseResult(host="a", phase="stage", status="ok"))
    staged = SimpleNamespace(staged={"a": SimpleNamespace(lock=str(tmp_path / "lock"))})
    audit.apply(context, cast("StagedHosts", staged))
    [note] = context.outcomes.results["a"]["stage"].notes
    assert note.startswith("the packages were not audited: Auditing requires network access")
    assert not (context.run.folder / audit.FILE).exists()


def test_the_service_is_asked_through_the_proxy_of_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, service: Service
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text(f"[global]\nproxy = {service.address}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    audit.ask({("torch", "2.6.0")}, "http://vulnerabilities.example")
    assert service.asked == [("torch", "2.6.0")]


def test_a_service_without_an_answer_is_abandoned(monkeypatch: pytest.MonkeyPatch, service: Service) -> None:
    monkeypatch.setattr(audit, "LIMIT_S", 0.0)
    with pytest.raises(StageError, match="did not answer within 0 s"):
        audit.ask({("torch", "2.6.0")}, service.address)
