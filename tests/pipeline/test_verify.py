"""The phase `verify`: the records of hosts that were checked together."""

import json
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from provision.core.errors import InstallError
from provision.core.models.facts import HostFacts, Installed
from provision.core.models.records import CheckRecord
from provision.fleet.ssh.dispatch import DEFAULT_LIMIT
from provision.phases.verify import step as verify
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.run.context import RunContext
from provision.run.desired_state import Desired
from provision.run.results import ProbedHosts, StagedHosts
from tests.pipeline.local_context import local_context, own_paths
from tests.pipeline.test_up_to_date import host_facts
from verify.records import FLEET, CheckResult, as_record


def context_of(tmp_path: Path, *names: str, **settings: Any) -> RunContext:
    return local_context(tmp_path, names, settings=settings)


def probed_hosts(context: RunContext, **facts: HostFacts) -> ProbedHosts:
    return ProbedHosts(facts, dict.fromkeys((host.name for host in context.hosts()), own_paths(context.cache)))


def check(context: RunContext, options: CheckOptions) -> None:
    verify.check(context, probed_hosts(context), context.hosts(), options)


@pytest.fixture(autouse=True)
def _two_well_and_one_ill(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(session: Any, **_: Any) -> Verified:
        status: Any = "warn" if session.host == "ill" else "ok"
        record = as_record("kernels.gemm", session.host, "cuda:0", CheckResult(status, "as it is"), 0.1)
        document = {"host": session.host, "started_at": "2026-11-20T11:00:00.000Z", "checks": [record]}
        document["torch"] = None if session.host == "broken" else "2.13.0"
        return Verified((CheckRecord.model_validate(record),), document)

    monkeypatch.setattr(verify, "run_checks", run)


def test_the_comparison_of_hosts_is_stored_in_the_runs_folder(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a", "b", "ill")
    check(context, CheckOptions("quick"))
    kept = json.loads(context.run.path("host_comparison.json").read_bytes())["checks"]
    assert [(record["id"], record["status"]) for record in kept] == [(FLEET, "warn")]
    assert kept[0]["reason"].startswith("ill: kernels.gemm warn")


@pytest.mark.parametrize(
    "options", [CheckOptions("burn-in", hours=24), CheckOptions("quick", soak_minutes=60)], ids=["burn-in", "soak"]
)
def test_all_hosts_of_work_of_hours_begin_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: CheckOptions
) -> None:
    names = [f"h{number}" for number in range(DEFAULT_LIMIT + 1)]
    together, asked = Barrier(len(names)), list[str]()

    def run(session: Any, **_: Any) -> Verified:
        asked.append(session.host)
        together.wait(30)
        raise InstallError("nothing is here")

    monkeypatch.setattr(verify, "run_checks", run)
    context = context_of(tmp_path, *names)
    check(context, options)
    assert sorted(asked) == sorted(names)


def test_hosts_whose_last_checks_stay_valid_are_compared_too(tmp_path: Path) -> None:
    """So a host with other bits than its equals is red again when the same command is repeated."""
    context = context_of(tmp_path, "a", "b")
    facts = {}
    for name in "ab":
        bits = {"name": "NVIDIA H200", "result_hashes": {"product": name}}
        record = as_record("kernels.determinism", "its-own-name", "cuda:0", CheckResult("ok", "", evidence=bits), 0.1)
        last = {"host": "its-own-name", "status": "ok", "environment": "e1", "checks": [record]}
        facts[name] = host_facts(Installed(prefix="/p", last_verify=last))
    staged = StagedHosts(**vars(probed_hosts(context, **facts)), desired={}, up_to_date=frozenset({"a", "b"}))
    verify.verify(context, staged)
    kept = json.loads(context.run.path("host_comparison.json").read_bytes())["checks"]
    assert (kept[0]["id"], kept[0]["status"]) == ("kernels.determinism", "fail")
    assert "a cuda:0, b cuda:0" in kept[0]["reason"]


def test_a_single_host_is_not_compared(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a")
    check(context, CheckOptions("quick"))
    assert context.run.path("verify/a.json").exists()
    assert not context.run.path("host_comparison.json").exists()


def test_the_desired_state_is_computed_again_from_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Desired.model_construct(environment="e1", stack={"torch": {"variant": "cpu"}})
    after = before.model_copy(update={"environment": "e2"})

    def recompute(_context: Any, _installed: Any, name: str, document: Any) -> Desired:
        assert document["host"] == name
        return after if name == "ill" else before

    monkeypatch.setattr(verify, "recompute_desired", recompute)
    context = context_of(tmp_path, "a", "ill")
    probed = probed_hosts(context)
    installed = StagedHosts(**vars(probed), desired=dict.fromkeys(("a", "ill"), before))
    verified = verify.verify(context, installed)
    assert verified.desired == {"a": before, "ill": after}
    assert set(verified.documents) == {"a", "ill"}


def test_what_others_gave_or_left_on_an_unchanged_host_is_a_warning(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a", "b")
    rules = tuple(f"/etc/sudoers.d/{name} gives rights" for name in "tuvwxyz")
    facts = {
        name: host_facts(
            Installed(
                prefix="/p", foreign=foreign, last_verify={"status": "ok", "finished_at": "2026-11-20T07:00:00.000Z"}
            )
        )
        for name, foreign in {"a": rules, "b": ()}.items()
    }
    staged = StagedHosts(**vars(probed_hosts(context, **facts)), desired={}, up_to_date=frozenset({"a", "b"}))
    verify.verify(context, staged)
    warned, quiet = (context.outcomes.results[name]["verify"] for name in ("a", "b"))
    assert (warned.status, quiet.status, warned.changed) == ("warn", "skipped", False)
    assert str(warned.text).startswith("/etc/sudoers.d/t gives rights; /etc/sudoers.d/u gives rights; ")
    assert "x gives rights and 2 more; nothing changed since it was verified" in str(warned.text)
    assert str(quiet.text).startswith("nothing changed")
