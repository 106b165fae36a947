"""Commands that only read hosts leave the runs as they are; their records are apart, and only the newest of them stay."""

from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.models.records import PhaseResult
from provision.core.run_folder import QUERIES, RunFolder
from provision.phases.install.hosts_file import Target
from provision.pipeline import CommandRequest
from provision.pipeline.phases import BEFORE_PLAN, CHANGES, PLAN, STEPS
from provision.pipeline.runner import execute
from provision.report.history import retention, runs
from provision.report.history.retention import KEEP_QUERIES
from provision.report.history.runs import find, names
from provision.report.history.show import summary_text
from provision.run.context import RunContext
from provision.run.playbooks import Played
from provision.run.results import ProbedHosts
from provision.run.step import Step


def probe(context: RunContext, probed: ProbedHosts) -> ProbedHosts:
    for host in context.hosts():
        context.record(PhaseResult(host=host.name, phase="probe", status="failed", text="it is off"))
    return probed


READ = Step("probe", probe, "probe", "all", reads_only=True)
CHANGE = Step("install", lambda _, probed: probed, "install", "all")


@pytest.fixture
def request_(tmp_path: Path) -> CommandRequest:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("all: {hosts: {a: {ansible_connection: local}}}\n")
    return CommandRequest("status", inventory, None, {}, tmp_path / "logs")


def test_of_a_run_only_its_first_steps_just_read() -> None:
    assert [step for step in STEPS if step.reads_only] == [*BEFORE_PLAN, PLAN, CHANGES]


def test_a_query_is_no_run(request_: CommandRequest) -> None:
    run = execute(request_, (READ, CHANGE)).summary.run
    query = execute(request_, (READ,)).summary.run
    logs = request_.logs
    assert (logs / "latest").resolve().name == run
    assert names(logs) == [run]
    assert find(logs).name == run
    assert query not in runs.list_text(logs)
    assert query == f"{QUERIES}/{(logs / QUERIES / 'latest').resolve().name}"
    assert (logs / query / "summary.json").exists()


def test_a_query_is_shown_by_its_name(request_: CommandRequest) -> None:
    query = execute(request_, (READ,)).summary.run
    assert RunFolder(find(request_.logs, query)).logs == request_.logs
    shown = summary_text(request_.logs, query)
    assert "it is off" in shown
    assert shown.endswith(f"./firstlight logs show {query} --full")


def installing(context: RunContext, probed: ProbedHosts) -> ProbedHosts:
    context.state(Played).targets = {host.name: Target(host, {"firstlight_prefix": "/p"}) for host in context.hosts()}
    return probed


def test_every_run_has_the_inventory_of_the_installation(request_: CommandRequest, tmp_path: Path) -> None:
    install = Step("install", installing, "install", "all")
    file = request_.logs / "latest" / "install" / "hosts.yml"
    execute(request_, (CHANGE,))
    assert not file.exists(), "nothing was installed yet"
    first = execute(request_, (install,)).summary.run
    execute(request_, (READ,))
    assert "firstlight_prefix: /p" in file.read_text()
    of_runs = (file, request_.logs / first / "install" / "hosts.yml")
    assert [path.stat().st_mode & 0o777 for path in of_runs] == [0o600, 0o600], "arguments of ssh may have secrets"
    other = tmp_path / "other.yml"
    other.write_text("all: {hosts: {b: {ansible_connection: local}}}\n")
    execute(replace(request_, inventory=other), (CHANGE,))
    assert not file.exists(), "hosts of another inventory are not touched"
    last = execute(request_, (CHANGE,)).summary.run
    assert file.read_text() == (request_.logs / first / "install" / "hosts.yml").read_text().replace(first, last)


def test_only_the_newest_queries_stay(request_: CommandRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SLACK", 1)
    for number in range(KEEP_QUERIES):
        folder = RunFolder(request_.logs / QUERIES / f"20250101T0000{number:02}Z")
        folder.write("run.json", {"pid": 0, "pid_start": 1})
    query = execute(request_, (READ,)).summary.run
    kept = names(request_.logs / QUERIES)
    assert len(kept) == KEEP_QUERIES
    assert f"{QUERIES}/{kept[0]}" == query
    assert "20250101T000000Z" not in kept
