"""The phase `verify`: what it keeps of hosts that were checked together."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from provision.core.install_paths import InstallPaths
from provision.core.models.records import CheckRecord
from provision.core.models.settings import Connection, Host, Inventory, Settings
from provision.core.models.staged import Staged
from provision.core.run_folder import RunFolder
from provision.phases.verify import run_checks
from provision.phases.verify.tool_output import Verified
from provision.pipeline import verify
from provision.pipeline.context import RunContext
from provision.report.live import open_progress
from verify.records import FLEET, NETWORK, Outcome, as_record


def context_of(tmp_path: Path, *names: str) -> RunContext:
    hosts = tuple(Host(name=name, connection=Connection(kind="local"), settings=Settings()) for name in names)
    context = RunContext(
        run=RunFolder.create(tmp_path / "logs", command="verify"),
        inventory=Inventory(source="test", hosts=hosts),
        progress=open_progress(list(names), stream=io.StringIO(), environment={}),
        cache=tmp_path,
    )
    paths = InstallPaths(prefix=str(tmp_path), incoming=str(tmp_path), owner="root", root=False)
    context.install_paths |= dict.fromkeys(names, paths)
    return context


@pytest.fixture(autouse=True)
def _two_well_and_one_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(session: Any, **_: Any) -> Verified:
        status: Any = "warn" if session.host == "ill" else "ok"
        record = as_record("kernels.gemm", session.host, "cuda:0", Outcome(status, "as it is"), 0.1)
        document = {"host": session.host, "started_at": "2026-11-20T11:00:00.000Z", "checks": [record]}
        document["torch"] = None if session.host == "broken" else "2.13.0"
        return Verified((CheckRecord.model_validate(record),), document)

    monkeypatch.setattr(run_checks, "verify", run)


def test_the_odd_host_is_kept_in_the_runs_folder(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a", "b", "ill")
    verify.check(context, context.hosts(), level="quick")
    kept = json.loads(context.run.path("together.json").read_bytes())["checks"]
    assert [(record["id"], record["status"]) for record in kept] == [(FLEET, "warn")]
    assert kept[0]["reason"].startswith("ill: kernels.gemm warn")


def test_one_host_is_compared_with_nobody(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a")
    verify.check(context, context.hosts(), level="quick")
    assert context.run.path("verify/a.json").exists()
    assert not context.run.path("together.json").exists()


def test_hosts_are_tried_together_only_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = []

    def meet(openers: Any) -> dict[str, Any]:
        tried.append(list(openers))
        return as_record(NETWORK, None, None, Outcome("warn", "no interface joins the 2 hosts"), 0.1)

    monkeypatch.setattr("provision.fleet.multihost.meet", meet)
    context = context_of(tmp_path, "a", "b", "broken")
    verify.check(context, context.hosts(), level="standard", meet=True)
    assert tried == [["a", "b"]], "torch is not there on the third one"
    kept = json.loads(context.run.path("together.json").read_bytes())["checks"]
    assert [record["id"] for record in kept] == [FLEET, NETWORK]
    verify.check(context, context.hosts(), level="standard")
    assert len(tried) == 1


def test_what_a_walk_has_staged_is_desired_again_by_what_the_checks_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr(verify, "recompute_desired", lambda _context, name, verified: seen.update({name: verified}))
    context = context_of(tmp_path, "a", "b")
    context.staged["a"] = Staged.model_construct()
    verify.check(context, context.hosts(), level="quick")
    assert {name: document["host"] for name, document in seen.items()} == {"a": "a"}
