"""States, verdicts, and warnings about missing, truncated or foreign files."""

import json
from pathlib import Path

import pytest

from provision.core.models.facts import Drift, HostFacts, Installed
from provision.core.models.records import Finding, HostSummary, PhaseName
from provision.core.models.stack import FlashAttnPackage, FlashAttnPlan, Reason
from provision.report.endpoint import chat_commands
from provision.report.run_files import read
from provision.report.summary_builder import verdict
from tests.report.sample import CPU_STACK, Folder, check, document, facts, host, ran, result, served
from tests.report.test_on_host import KEY

RUN = "20261120T101500Z"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return ran(tmp_path / RUN)


def summary(name: str = "a", state: str = "serving", **values: object) -> HostSummary:
    return HostSummary.model_validate({"name": name, "state": state, "changed": False, **values})


@pytest.mark.parametrize(
    ("host_summary", "expected"),
    [
        (summary(), "green"),
        (summary(state="unchanged"), "green"),
        (summary(state="planned"), "green"),
        (summary(state="failed"), "red"),
        (summary(state="unreachable"), "red"),
        (summary(state="interrupted"), "red"),
        (summary(deviations=("another vLLM",)), "amber"),
        (summary(warnings=("stage: slow mirror",)), "amber"),
        (summary(checks=(check("a.b", "warn"),)), "amber"),
        (summary(checks=(check("a.b", "skip"),)), "green"),
        (summary(notes=("an assumption",)), "green"),
    ],
)
def test_verdict_of_one_host(host_summary: HostSummary, expected: str) -> None:
    assert verdict([host_summary]) == expected


def test_worst_host_decides() -> None:
    assert verdict([summary(), summary("b", deviations=("x",))]) == "amber"
    assert verdict([summary(deviations=("x",)), summary("b", "failed")]) == "red"


@pytest.mark.parametrize(("status", "expected"), [("ok", "green"), ("warn", "amber"), ("fail", "red")])
def test_the_host_comparison_counts_for_the_verdict(folder: Folder, status: str, expected: str) -> None:
    reason = "gpu-7: speed.gemm warn, where 8 of 9 hosts are ok"
    folder.run.write(
        "host_comparison.json", {"checks": [check("fleet.alike", status, host=None, device=None, reason=reason)]}
    )
    whole, text = folder.json(), folder.text()
    assert (whole["verdict"], [entry["reason"] for entry in whole["host_comparison"]]) == (expected, [reason])
    assert ("hosts differ in 1 check" in text.splitlines()[0]) is (status != "ok")
    assert "Host comparison" in text
    assert reason in " ".join(text.split())


def test_hosts_that_cannot_communicate_are_reported_on_the_first_line(folder: Folder) -> None:
    reason, remedy = "no interface joins the 2 hosts", "let them reach one another"
    record = check("fleet.network", "warn", host=None, device=None, reason=reason, remedy=remedy)
    folder.run.write("host_comparison.json", {"checks": [record]})
    first, *rest = folder.text().splitlines()
    assert "a problem of the network between hosts" in first
    assert "hosts differ" not in first
    assert f"{reason}; hint: {remedy}" in " ".join(" ".join(rest).split())


def test_a_command_in_a_remedy_is_for_the_hosts_of_the_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a")])
    folder.green("a")
    record = check("fleet.alike", "warn", remedy="compare: ./firstlight drift")
    folder.run.write("host_comparison.json", {"checks": [record]})
    assert folder.json()["host_comparison"][0]["remedy"] == "compare: ./firstlight drift -i inventory/mysite"


def test_commands_of_a_host_are_for_the_hosts_of_the_run(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a"), host("b")])
    folder.results(
        result("a", "plan", "failed", text="install it first: ./firstlight provision"),
        result("b", "plan", "quarantined", text="it is quarantined", hint="./firstlight verify --return b"),
    )
    finding = Finding(cause="gsp-timeout", confidence=0.9, fix=("reset it", "./firstlight drivers --reboot"))
    folder.run.write("findings/a.json", [finding.model_dump()])
    failed, quarantined = folder.json()["hosts"]
    assert failed["phases"]["plan"]["text"] == "install it first: ./firstlight provision -i inventory/mysite"
    assert failed["findings"][0]["fix"] == ["reset it", "./firstlight drivers -i inventory/mysite --reboot"]
    assert quarantined["warnings"] == ["it is quarantined; hint: ./firstlight verify -i inventory/mysite --return b"]


@pytest.mark.parametrize("status", ["fail", "error"])
def test_a_check_that_fails_or_has_an_error_makes_the_run_red(folder: Folder, status: str) -> None:
    bad = check("kernel.matmul", status, reason="3 of 64 rows are wrong", remedy="replace the GPU")
    folder.run.write("verify/a.json", document([bad]))
    assert folder.json()["verdict"] == "red"
    assert "check kernel.matmul on cpu: 3 of 64 rows are wrong" in folder.text()
    assert "hint: replace the GPU" in folder.text()


def test_attention_other_than_planned_is_a_deviation(folder: Folder) -> None:
    folder.run.write("serve/a.json", served("TRITON_ATTN"))
    assert folder.json()["hosts"][0]["deviations"] == ["attention TRITON_ATTN is in use, CPU_ATTN was planned"]
    assert folder.json()["verdict"] == "amber"


def test_an_index_that_did_not_answer_is_reported_once_with_a_remedy(folder: Folder) -> None:
    newer = CPU_STACK.vllm.model_copy(update={"version": "0.33.0"}) if CPU_STACK.vllm else None
    folder.planned(["a"], CPU_STACK.model_copy(update={"vllm": newer}))
    refused = [
        Reason(
            rule="index",
            verdict="reject",
            candidate=f"vllm-{release}-cpu",
            facts={"indexes": [f"https://wheels.vllm.ai/{release}/cpu"]},
            text=f"{hosts} cannot be reached (HTTP 403)",
        )
        for release, hosts in (("0.33.0", "mirror and wheels.vllm.ai"), ("0.32.0", "wheels.vllm.ai"))
    ]
    folder.staged(["a"], CPU_STACK, *refused)
    first, second = folder.json()["hosts"][0]["deviations"]
    assert first.endswith("with torch 2.13.0 cpu: mirror and wheels.vllm.ai cannot be reached (HTTP 403)")
    assert "name a mirror of https://wheels.vllm.ai/0.33.0/cpu as an extra index" in second
    assert "--bundle" in second
    assert second.endswith("--refresh")
    text = folder.text()
    assert text.index("Warnings") < text.index("--refresh") < text.index("Hosts") < text.index("Next")


def test_a_package_that_was_left_out_is_a_deviation_with_its_reason(folder: Folder) -> None:
    package = FlashAttnPackage(version="2.8.3", source="built", file="flash_attn.whl", key=KEY, builder="controller")
    planned = CPU_STACK.model_copy(update={"flash_attn": FlashAttnPlan(provider="none", package=package)})
    folder.planned(["a"], planned)
    note = "flash-attn 2.8.3 was left out: nvcc failed; --refresh tries again"
    folder.staged(["a"], CPU_STACK, notes=("an index was left out", note))
    assert folder.json()["hosts"][0]["deviations"] == [note]
    assert folder.json()["verdict"] == "amber"


@pytest.mark.parametrize(("phases", "word"), [(("probe", "serve"), "drift, repaired"), (("probe",), "drift")])
def test_drift_is_reported(tmp_path: Path, phases: tuple[PhaseName, ...], word: str) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    drift = Drift(kind="file", path="/a", text="is gone")
    installed = Installed(prefix="/opt/firstlight", drift=(drift,))
    folder.run.write("facts/a.json", HostFacts(host="a", probed_at="2026-11-21T10:05:00.000Z", installed=installed))
    folder.results(*(result("a", phase) for phase in phases))
    [node] = folder.json()["hosts"]
    assert node["notes"] == [f"{word}: /a is gone"]


@pytest.mark.parametrize(
    ("command", "phases", "state"),
    [
        # Without a proof of a service no host counts as serving; the command did not ask for it.
        ("provision --limit a", ("probe", "plan", "stage", "install", "verify", "serve"), "installed"),
        ("install", ("probe", "plan", "stage", "install"), "installed"),
        # Shares of requests at a gateway: nothing was installed.
        ("rollout", ("serve",), "serving"),
        ("stop", ("probe", "serve"), "stopped"),
        ("uninstall", ("probe", "install"), "removed"),
        ("verify", ("probe", "verify"), "unchanged"),
        ("plan", ("probe", "plan"), "planned"),
        ("status", ("probe",), "probed"),
    ],
)
def test_state_follows_from_command_and_phases(
    tmp_path: Path, command: str, phases: tuple[PhaseName, ...], state: str
) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    folder.run.write("run.json", {"command": command, "started_at": "2026-11-20T10:15:00.000Z"})
    folder.results(*(result("a", phase) for phase in phases))
    assert folder.json()["hosts"][0]["state"] == state


@pytest.mark.parametrize(
    ("command", "phases", "verdict"),
    [
        ("install", ("probe", "plan", "stage", "install"), "red"),
        ("provision", ("probe", "plan", "stage", "install", "verify", "serve"), "red"),
        ("status", ("probe",), "red"),
        ("uninstall", ("probe", "install"), "green"),
        ("rollback --to 0123456789abcdef", ("probe", "serve"), "green"),
        ("drivers", ("probe", "plan", "install"), "green"),
        ("gateway", ("probe", "serve"), "green"),
        ("plan", ("probe", "plan"), "green"),
        ("provision --dry-run", ("probe", "plan"), "green"),
        ("stage", ("probe", "plan", "stage"), "green"),
        ("probe", ("probe",), "green"),
    ],
)
def test_checks_that_failed_before_make_red_what_relies_on_them(
    tmp_path: Path, command: str, phases: tuple[PhaseName, ...], verdict: str
) -> None:
    folder = Folder(tmp_path / RUN, [host("a", local=True)])
    folder.run.write("run.json", {"command": command, "started_at": "2026-11-20T10:15:00.000Z"})
    verified = document([check("devices.driver", "fail")], started_at="2026-11-20T07:15:00.000Z")
    folder.run.write("facts/a.json", facts("a", installed=Installed(prefix="/opt/firstlight", last_verify=verified)))
    folder.results(*(result("a", phase) for phase in phases))
    assert folder.json()["verdict"] == verdict


def test_a_run_that_ended_before_a_host_was_reached_is_shown(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a"), host("b")])
    folder.green("a")
    whole = folder.json(interrupted=True)
    assert [entry["state"] for entry in whole["hosts"]] == ["serving", "interrupted"]
    assert "the run ended before this host was processed" in folder.text(interrupted=True)


@pytest.mark.parametrize("name", ["plan.json", "verify/a.json", "phases.json", "inventory.json", "facts/a.json", "stage/class-1.json", "transfers.json", "host_comparison.json"])  # fmt: skip
@pytest.mark.parametrize("content", ["", "{", '"text"', '{"checks": [3], "hosts": 3}'])
def test_an_unreadable_file_is_reported_and_the_rest_is_shown(folder: Folder, name: str, content: str) -> None:
    folder.run.path(name).write_text(content, encoding="utf-8")
    whole = folder.json()
    reason = [note for entry in whole["hosts"] for note in entry["warnings"]]
    assert any(name.rpartition("/")[2] in note for note in reason)
    assert whole["verdict"] != "green"


def test_an_unreadable_file_of_a_host_concerns_no_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path / RUN, [host("a"), host("b")])
    folder.green("a")
    folder.green("b")
    folder.run.path("serve/b.json").write_text("{", encoding="utf-8")
    assert [len(entry["warnings"]) for entry in folder.json()["hosts"]] == [0, 1]


def test_a_verify_document_of_a_later_release_is_read(folder: Folder) -> None:
    later = check("x.y", reason="fine", colour="blue", figures=[{"name": "n", "value": 1.0, "unit": "s", "spread": 2}])
    folder.run.write("verify/a.json", document([later]))
    assert folder.json()["hosts"][0]["checks"][0]["id"] == "x.y"


def test_seconds_of_a_killed_run_come_from_its_events(folder: Folder) -> None:
    folder.run.write("run.json", {"run": RUN, "command": "provision", "started_at": "2026-11-20T10:15:00.000Z"})
    event = '{"at": "2026-11-20T10:17:30.000Z", "kind": "phase", "phase": "stage", "seconds": 20}\n{"at": "2026-'
    folder.run.path("events.jsonl").write_text(event, encoding="utf-8")
    whole = folder.json()
    assert whole["seconds"] == 150.0
    assert whole["phase_seconds"] == {"stage": 20.0}


def test_another_user_than_root_reads_the_key_with_sudo() -> None:
    local = host("a", local=True)
    assert chat_commands(served(), "/opt/firstlight/etc/service.env", local, "ops")[0].startswith("sudo sed ")
    home = "/home/ops/.local/share/firstlight/etc/service.env"
    assert "sudo" not in chat_commands(served(), home, local, "ops")[0]
    assert "Authorization" not in chat_commands(served(), None, local, "ops")[0]


def test_an_address_that_others_reach_needs_no_tunnel() -> None:
    near = served().model_copy(update={"endpoint": "http://10.0.0.7:8000/v1"})
    assert len(chat_commands(near, None, host("b"), "ops")) == 1


def test_a_proof_of_an_earlier_version_that_names_no_model_has_no_request(folder: Folder) -> None:
    assert folder.json()["hosts"][0]["model"] == "builtin-1"
    folder.run.write("serve/a.json", served().model_copy(update={"model": None}))
    assert folder.json()["hosts"][0]["call"] == []


def test_the_prefix_comes_from_the_probe(folder: Folder) -> None:
    assert folder.json()["hosts"][0]["prefix"] == "/opt/firstlight"
    folder.run.write("facts/a.json", facts("a").model_copy(update={"installed": None}))
    assert folder.json()["hosts"][0]["key_file"] == "/opt/firstlight/etc/service.env"


def test_settings_and_facts_of_another_version_are_ignored(folder: Folder) -> None:
    inventory, known = json.loads(folder.run.path("inventory.json").read_text()), facts("a").model_dump(mode="json")
    inventory["hosts"][0]["settings"]["of_another_version"] = 1
    folder.run.write("inventory.json", inventory)
    folder.run.write("facts/a.json", known | {"of_another_version": 1})
    found = read(folder.run)
    assert found.unreadable == []
    assert found.inventory is not None
    assert found.facts.keys() == {"a"}
