"""`doctor --limit` and `--apply` on this machine: what they read and keep, what they ask, and what they may change."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.cli.options import consent
from provision.core.models.facts import Drift, HostFacts, Installed, OperatingSystem, Python
from provision.core.models.inventory import Connection, Inventory
from provision.core.models.records import PhaseName, PhaseResult
from provision.core.run_folder import RunFolder
from provision.features.rollout.model import Decision, Rollout, RolloutHost
from provision.features.rollout.store import RolloutStore
from provision.fleet.ssh.local import LocalSession
from provision.phases.probe.failure_evidence import collect
from provision.pipeline import CommandRequest, diagnosis, failure_evidence
from provision.report.difference import connections
from tests.pipeline.command_lines import firstlight
from tests.pipeline.local_context import local_host
from verify.doctor.catalog import load_causes
from verify.doctor.engine import diagnose_texts

pytestmark = pytest.mark.slow

PLAYBOOK = Path(__file__).resolve().parents[2] / "playbooks/repair.yml"
ROLE = PLAYBOOK.parent / "roles/repair/tasks/main.yml"
BROKEN = "fatal error: Python.h: No such file or directory\n"
HERE = local_host("here")


def seen(**values: Any) -> HostFacts:
    return HostFacts(host="here", probed_at="2026-01-01T00:00:00Z", **values)


def test_the_sources_of_a_host_are_stored_and_absent_ones_are_listed(tmp_path: Path) -> None:
    done = firstlight("doctor", "--limit", "localhost", "--json", logs=tmp_path)
    assert done.returncode in (0, 8), done.stderr
    [document] = json.loads(done.stdout)
    absent = {source["name"]: source["absent"] for source in document["sources"]}
    assert absent["disks"] is None
    assert absent["last_run"] == "no earlier run worked on it"
    kept = {path.stem for path in Path(document["folder"]).glob("*.txt")}
    assert kept == {name for name, reason in absent.items() if reason is None}
    assert "Available" in (Path(document["folder"]) / "disks.txt").read_text()


def test_a_log_of_a_service_under_supervisor_begins_with_its_newest_start(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/vllm.log").write_text(
        f"preflight: start of a pid 7\n{BROKEN}preflight: start of b pid 9\nall well\n"
    )
    sources = {
        source.name: source
        for source in collect(LocalSession("here", HERE.connection), prefix=str(tmp_path), root=False)
    }
    assert sources["service_log"].text == "preflight: start of b pid 9\nall well\n"
    assert "there is no" in (sources["supervisor_log"].absent or "")


def run_folder(logs: Path, name: str, host: str, phases: dict[str, Any], output: str = "") -> None:
    (logs / name / "install").mkdir(parents=True)
    (logs / name / "phases.json").write_text(json.dumps({host: phases}))
    (logs / name / "install" / "ansible.log").write_text(output)


def result(phase: str, status: str, text: str = "") -> dict[str, Any]:
    return {"host": "here", "phase": phase, "status": status, "text": text, "evidence": []}


def test_the_newest_run_that_worked_on_a_host_is_evidence_only_where_it_failed(tmp_path: Path) -> None:
    assert diagnosis.earlier(tmp_path, "here").absent == "no earlier run worked on it"
    run_folder(tmp_path, "20260101T000000Z", "here", {"install": result("install", "failed", "task x failed")}, BROKEN)
    run_folder(tmp_path, "20260102T000000Z", "here", {"probe": result("probe", "ok")})
    log = diagnosis.earlier(tmp_path, "here")
    assert log.text.splitlines() == ["task x failed", BROKEN.strip()]
    assert diagnosis.earlier(tmp_path, "elsewhere").absent
    run_folder(tmp_path, "20260103T000000Z", "here", {"install": result("install", "ok")}, BROKEN)
    sound = diagnosis.earlier(tmp_path, "here")
    assert sound.absent == "run 20260103T000000Z did not fail there"


def test_failures_of_other_hosts_in_a_run_are_no_evidence(tmp_path: Path) -> None:
    printed = "".join(
        f"""TASK [environment : Build the environment] ****
[ERROR]: Task failed: {said}
Origin: /site/10_build.yml:2:3

2 - name: Build the environment
    ^ column 3

{word}: [{who}]: FAILED! =>
    changed: false
    stderr: |-
        Resolved 2 packages

        error: {said}

"""
        for who, word, said in (
            ("here-2", "fatal", "disk of here-2"),
            ("here", "fatal", "disk of here"),
            ("gpu-1 -> localhost", "failed", "disk of gpu-1"),
            ("here -> localhost", "failed", "files of here"),
        )
    )
    run_folder(tmp_path, "20260101T000000Z", "here", {"install": result("install", "failed", "x")}, printed)
    text = diagnosis.earlier(tmp_path, "here").text
    assert text.count("TASK [") == 4
    assert (text.count("disk of here\n"), text.count("files of here\n")) == (2, 2)
    assert "here-2" not in text
    assert "gpu-1" not in text


def taken_back(logs: Path, *, failed: bool, **values: Any) -> None:
    """Write a rollout of three runs: the second switched the host, the third took it back."""
    runs = ("20260101T000000Z", "20260101T000100Z", "20260101T000200Z")
    second = result("serve", "failed", "the unit did not start") if failed else result("serve", "ok")
    for name, serve in zip(runs, (result("serve", "ok"), second, result("serve", "ok")), strict=True):
        run_folder(logs, name, "here", {"serve": serve})
    known = {"state": "rolled back", "runs": runs} | values
    hosts = (RolloutHost(name="here", step=0, before="0" * 16, after="1" * 16, state="returned"),)
    rollout = Rollout(name=runs[0], inventory="/site", steps=(100,), started_at="2026-01-01T00:00:00Z", hosts=hosts)
    RolloutStore(logs).put(rollout.model_copy(update=known))


def test_of_a_rollout_that_was_taken_back_the_run_that_failed_is_read(tmp_path: Path) -> None:
    taken_back(tmp_path, failed=True)
    found = diagnosis.earlier(tmp_path, "here")
    assert found.text == "the unit did not start\n"


def test_a_verification_that_failed_is_evidence_until_one_did_not(tmp_path: Path) -> None:
    run_folder(tmp_path, "20260101T000000Z", "here", {"serve": result("serve", "failed", "the unit did not start")})
    checked = {"probe": result("probe", "ok"), "verify": result("verify", "failed", "devices.ecc: 3 errors")}
    run_folder(tmp_path, "20260102T000000Z", "here", checked)
    assert diagnosis.earlier(tmp_path, "here").text == "devices.ecc: 3 errors\n"
    run_folder(tmp_path, "20260103T000000Z", "here", checked | {"verify": result("verify", "ok")})
    assert diagnosis.earlier(tmp_path, "here").text == "the unit did not start\n"


def test_of_a_rollout_that_its_gate_took_back_the_decision_is_read(tmp_path: Path) -> None:
    text = "5 of 75 requests failed; the server answered 500"
    decision = Decision(step=0, at="2026-01-01T00:01:30Z", verdict="roll back", text=text, run="20260101T000150Z")
    taken_back(tmp_path, failed=False, decisions=(decision,))
    found = diagnosis.earlier(tmp_path, "here")
    assert found.text == f"{text}\n"


@pytest.mark.parametrize(
    "values", [{"state": "done"}, {"runs": ("20260101T000000Z",)}], ids=["done", "a run of its own"]
)
def test_an_older_failure_is_over_where_the_rollout_is_done_or_another_run_followed(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    taken_back(tmp_path, failed=True, **values)
    assert diagnosis.earlier(tmp_path, "here").absent == "run 20260101T000200Z did not fail there"


def test_a_damaged_record_of_a_rollout_hides_no_run(tmp_path: Path) -> None:
    taken_back(tmp_path, failed=True)
    (tmp_path / "rollouts/20260101T000000Z.json").write_text("{")
    assert diagnosis.earlier(tmp_path, "here").absent == "run 20260101T000200Z did not fail there"


@pytest.mark.parametrize("address", ["10.0.0.1", "10.0.0.2"])
def test_a_failure_of_a_host_of_the_same_name_elsewhere_is_no_evidence(tmp_path: Path, address: str) -> None:
    run_folder(tmp_path, "20260101T000000Z", "here", {"serve": result("serve", "failed", "the unit did not start")})
    for name, reached in (("20260101T000000Z", "10.0.0.1"), ("20260102T000000Z", address)):
        host = HERE.model_copy(update={"connection": Connection(kind="ssh", address=reached)})
        RunFolder(tmp_path / name).write("inventory.json", Inventory(source="/site", hosts=(host,)))
    way = connections(tmp_path / "20260102T000000Z")["here"]
    found = diagnosis.earlier(tmp_path, "here", way)
    assert (found.absent is None) == (address == "10.0.0.1")


@pytest.mark.parametrize(
    ("service", "reported"), [("inactive", True), ("active", False), ("failed", False), (None, False)]
)
def test_a_service_that_was_stopped_normally_is_reported_if_nothing_failed(service: str | None, reported: bool) -> None:
    facts = seen(os=OperatingSystem(id="debian"), installed=Installed(prefix="/opt/firstlight", service=service))
    again = "./firstlight provision --limit here"
    nothing = diagnose_texts({"log": "all well\n"})
    advice = "\n".join(diagnosis.with_service(nothing, facts, again).look_next)
    assert ("The service is stopped" in advice and again in advice) is reported
    found = diagnose_texts({"log": BROKEN})
    assert diagnosis.with_service(found, facts, again) is found


def refused(what: str) -> bool:
    raise AssertionError(f"nobody may be asked: {what}")


def request(tmp_path: Path) -> CommandRequest:
    return CommandRequest(command="doctor", inventory=tmp_path, limit="here", overrides={}, logs=tmp_path)


def test_a_fix_that_is_unsafe_or_of_an_unlikely_cause_is_left_to_the_user(tmp_path: Path) -> None:
    [likely, *_] = diagnose_texts({"log": BROKEN}).findings
    unsafe = diagnose_texts({"log": "OSError: [Errno 98] Address already in use"}).findings
    unlikely = [replace(likely, confidence=0.1)]
    for findings, message in ((unsafe, "no step of its fix is safe"), (unlikely, "only possible (0.10)")):
        outcome = diagnosis.repair_host(request(tmp_path), HERE, findings, refused)
        assert outcome
        assert (outcome.tag, outcome.gone) == (None, False)
        assert message in outcome.text
    assert diagnosis.repair_host(request(tmp_path), HERE, (), refused) is None


def test_without_consent_nothing_is_changed_and_the_question_lists_the_changes(tmp_path: Path) -> None:
    asked: list[str] = []

    def no(what: str) -> bool:
        asked.append(what)
        return False

    outcome = diagnosis.repair_host(request(tmp_path), HERE, diagnose_texts({"log": BROKEN}).findings, no)
    assert outcome
    assert outcome.line() == "python-headers-missing: not gone: nothing was changed: no consent"
    assert "on here: Install the headers" in asked[0]
    assert "--tags python-headers" in asked[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("probe", "nothing was changed yet"),
        (
            "install",
            "interrupted in task `x`; the host is as that task left it, and the same command continues from there",
        ),
        ("verify", "the fix was applied; whether it helped is not known: test -f "),
    ],
)
def test_an_interrupted_repair_reports_its_last_step(phase: PhaseName, message: str) -> None:
    [cause] = [cause for cause in load_causes() if cause.id == "python-headers-missing"]
    last = PhaseResult(host="here", phase=phase, status="interrupted", text="interrupted in task `x`")
    outcome = diagnosis.repair_of(last, cause, cause.fixes[0], interrupted=True)
    assert outcome.line().startswith(f"python-headers-missing: interrupted: {message}")
    assert (outcome.gone, outcome.interrupted) == (False, True)


def test_a_cause_that_was_verified_as_gone_stays_gone() -> None:
    [cause] = [cause for cause in load_causes() if cause.id == "python-headers-missing"]
    last = PhaseResult(host="here", phase="verify", status="ok", text="seen")
    outcome = diagnosis.repair_of(last, cause, cause.fixes[0], interrupted=True)
    assert (outcome.gone, outcome.interrupted) == (True, False)


@pytest.mark.parametrize(
    ("typed", "agreed"),
    [("y\n", True), (" Yes\n", True), ("y", True), ("\n", False), ("", False), ("yesterday\n", False)],
)
def test_only_yes_is_consent(
    typed: str, agreed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert consent("do it?") is agreed
    asked = capsys.readouterr()
    assert asked.err.startswith("do it? [y/N]: ")
    assert asked.out == ""


def test_a_tag_for_a_system_package_installs_the_hosts_own() -> None:
    facts = seen(
        os=OperatingSystem(id="debian", version_id="12", package_manager="apt"),
        pythons=(Python(path="/usr/bin/python3", version="3.11.2"),),
    )
    assert failure_evidence.packages("python-headers", facts) == ["python3-dev"]
    assert failure_evidence.packages("cxx-compiler", facts) == ["g++"]
    assert failure_evidence.packages("nvidia-uvm", facts) == []


def tags_of(tasks: list[dict[str, Any]]) -> set[str]:
    return {tag for task in tasks for tag in task.get("tags", [])} - {"always"}


def test_every_safe_fix_has_a_tag_of_the_playbook_and_every_tag_is_used() -> None:
    [run_playbook] = yaml.safe_load(PLAYBOOK.read_text())
    offered = tags_of(run_playbook["tasks"]) | tags_of(yaml.safe_load(ROLE.read_text()))
    safe = [fix for cause in load_causes() for fix in cause.fixes if fix.safe]
    assert {fix.tag for fix in safe} == offered
    assert not [fix.text for cause in load_causes() for fix in cause.fixes if fix.tag and not fix.safe]
    assert not [fix.text for fix in safe if {"reboot", "relogin"} & set(fix.needs)]


def test_a_cause_with_a_safe_fix_has_a_check() -> None:
    repairable = [cause for cause in load_causes() if any(fix.safe for fix in cause.fixes)]
    assert repairable
    assert not [cause.id for cause in repairable if not cause.check.command]


def test_processes_that_a_signal_stopped_are_a_cause_that_no_log_shows() -> None:
    """`status` says so of the host: the probe saw it."""
    state = Drift(kind="process", path="/proc/411", text="is stopped by a signal, state T (VLLM::EngineCore)")
    facts = seen(installed=Installed(prefix="/opt/firstlight", drift=(state,)))
    source = diagnosis.stopped_processes(facts)
    assert source.absent is None
    found = diagnose_texts({source.name: source.text}).findings
    assert [one.cause.id for one in found] == ["service-stopped"]
    assert diagnosis.stopped_processes(facts.model_copy(update={"installed": None})).absent
