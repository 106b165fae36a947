"""Learned floors in runs: four equal hosts teach them, the controller keeps them, and a later host is compared."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provision.core.models.facts import Cpu, HostFacts
from provision.core.models.records import CheckRecord
from provision.phases.verify import step as verify
from provision.phases.verify.run_checks import CheckOptions, Verified
from provision.phases.verify.tool import Picked
from provision.run.context import RunContext
from tests.pipeline.test_verify import context_of, probed_hosts
from verify.records import LEARNED, CheckResult, Figure, as_record, worst_status

SPEEDS = {"a": 100.0, "b": 101.0, "c": 99.0, "d": 100.0, "e": 100.0, "slow": 70.0}


def run_of(check: str) -> Callable[..., Verified]:
    """Return what checks a host, with the figure of one check."""

    def run(session: Any, **_: Any) -> Verified:
        figure = Figure("memory, read and written", SPEEDS[session.host], "GB/s")
        record = as_record(check, session.host, "cpu", CheckResult("ok", "recorded", (figure,)), 0.1)
        document = {"host": session.host, "started_at": "2026-11-20T11:00:00.000Z", "level": "standard"}
        return Verified((CheckRecord.model_validate(record),), {**document, "environment": "e1", "checks": [record]})

    return run


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "run_checks", run_of("speed.memory"))


def check(tmp_path: Path, *names: str, **options: Any) -> dict[str, tuple[str, str]]:
    """Check hosts in a run of their own; return status and reason of what equal hosts say."""
    context = context_of(tmp_path, *names)
    verified = check_in(context, **options)
    found: dict[str, tuple[str, str]] = {}
    for name in verified:
        document = json.loads(context.run.path(f"verify/{name}.json").read_bytes())
        kept = document["checks"]
        assert document.get("status", "ok") == worst_status([record["status"] for record in kept])
        assert [record["id"] for record in kept] == [record["id"] for record in verified[name]["checks"]]
        own = [(record["status"], record["reason"]) for record in kept if record["id"] == LEARNED]
        if own:
            (found[name],) = own
    return found


def check_in(context: RunContext, **options: Any) -> dict[str, Any]:
    cpu = Cpu(model="EPYC", logical=2)
    names = [host.name for host in context.inventory.hosts]
    facts = {name: HostFacts(host=name, probed_at="2026-11-20T11:00:00Z", cpu=cpu) for name in names}
    documents, _ = verify.check(
        context, probed_hosts(context, **facts), context.hosts(), CheckOptions("standard", **options)
    )
    return dict(documents)


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "logs" / "learned").glob("*"))


def test_four_equal_hosts_teach_and_a_later_slow_one_is_warned_and_not_failed(tmp_path: Path) -> None:
    assert check(tmp_path, "a", "b", "c") == {}
    first = check(tmp_path, "a", "b", "c", "d")
    assert first["a"] == ("ok", "1 figures reach their floors, learned from 4 comparable hosts in this run")
    (file,) = files(tmp_path)
    kept = json.loads(file.read_text())
    assert (kept["hosts"], kept["host_class"]["cpu"]) == (["a", "b", "c", "d"], "EPYC")
    status, reason = check(tmp_path, "slow")["slow"]
    assert status == "warn"
    assert "speed.memory memory, read and written on cpu 70 GB/s, at least 95" in reason
    assert check(tmp_path, "e")["e"][0] == "ok"
    context = context_of(tmp_path, "slow")
    check_in(context)
    assert context.outcomes.results["slow"]["verify"].status == "warn"
    assert not context.has_failed("slow")


def test_floors_change_only_with_more_healthy_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(tmp_path, "a", "b", "c", "d")
    before = files(tmp_path)[0].read_text()
    check(tmp_path, "b", "c", "d", "e")
    assert files(tmp_path)[0].read_text() == before
    with monkeypatch.context() as patched:
        for name in SPEEDS:
            patched.setitem(SPEEDS, name, 70.0)
        assert {status for status, _ in check(tmp_path, *SPEEDS).values()} == {"warn"}, "slower as a whole"
    assert files(tmp_path)[0].read_text() == before
    found = check(tmp_path, "a", "b", "c", "d", "e", "slow")
    assert (found["a"][0], found["slow"][0]) == ("ok", "warn")
    assert json.loads(files(tmp_path)[0].read_text())["hosts"] == ["a", "b", "c", "d", "e"]


def test_more_hosts_that_measure_less_leave_the_floors_of_other_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(tmp_path, "a", "b", "c", "d")
    with monkeypatch.context() as patched:
        patched.setattr(verify, "run_checks", run_of("speed.copies"))
        check(tmp_path, "a", "b", "c", "d", "e")
    kept = json.loads(files(tmp_path)[0].read_text())
    assert [floor["check"] for floor in kept["floors"]] == ["speed.copies", "speed.memory"]
    assert check(tmp_path, "slow")["slow"][0] == "warn"


def test_selected_checks_are_compared_and_teach_nothing(tmp_path: Path) -> None:
    picked = Picked(only=("speed.memory",))
    assert check(tmp_path, "a", "b", "c", "d", selection=picked) == {}
    assert files(tmp_path) == []
    check(tmp_path, "a", "b", "c", "d")
    assert check(tmp_path, "slow", selection=picked)["slow"][0] == "warn"


def test_a_damaged_file_is_learned_again(tmp_path: Path) -> None:
    check(tmp_path, "a", "b", "c", "d")
    (file,) = files(tmp_path)
    file.write_text("{")
    assert check(tmp_path, "slow") == {}
    assert check(tmp_path, "a", "b", "c", "d")["a"][0] == "ok"
    assert json.loads(file.read_text())["hosts"] == ["a", "b", "c", "d"]


def test_batches_of_one_run_teach_together(tmp_path: Path) -> None:
    context = context_of(tmp_path, "a", "b", "c", "d")
    for batch in (["a", "b"], ["c", "d"]):
        context.begin_batch(batch)
        documents = check_in(context)
    assert [record["status"] for record in documents["d"]["checks"]] == ["ok", "ok"]
    assert len(files(tmp_path)) == 1
