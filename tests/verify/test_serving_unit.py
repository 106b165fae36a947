"""The unit that serves compared with the planned one, from systemd 252's output for real units and from drop-in files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from verify.checks.serving.unit import UnitFacts, evaluate
from verify.serving.service import Service
from verify.serving.service_control import ServiceState, stopped_by
from verify.serving.service_plan import ServicePlan, changed, differences, directives, recorded

SHOWN = {
    **dict.fromkeys(("Environment", "PassEnvironment", "AmbientCapabilities", "CapabilityBoundingSet"), ""),
    "Description": "vLLM, provisioned by Firstlight",
    "After": "-.mount network-online.target sysinit.target",
    "StartLimitIntervalUSec": "30min",
    "Type": "exec",
    "User": "firstlight",
    "EnvironmentFiles": "/opt/firstlight/etc/service.env (ignore_errors=no)",
    "ExecStartPre": "{ path=/opt/p ; argv[]=/opt/p -I --port 8000 ; ignore_errors=no ; start_time=[n/a] ; pid=0 }",
    "ExecStart": "{ path=/opt/v ; argv[]=/opt/v serve /m/a b --port 8000 ; ignore_errors=no ; start_time=[n/a] ; pid=0 }",
    "TimeoutStartUSec": "2min",
    "RestartUSec": "10s",
    "LimitNOFILE": "1048576",
    "LimitMEMLOCK": "18446744073709551615",
    "MemoryMax": "infinity",
    "UMask": "0077",
    "ProtectHome": "read-only",
    "PrivateTmp": "yes",
    "DeviceAllow": "char-rtc r char-nvidia* rwm",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_NETLINK AF_UNIX",
    "SystemCallFilter": "accept bind close pidfd_open read write",
    "FragmentPath": "/etc/systemd/system/firstlight-vllm.service",
    "NeedDaemonReload": "no",
    "UnitFileState": "enabled",
    "NRestarts": "0",
}
"""Lines of `systemctl show` of systemd 252 and, for infinity, of 219."""
UNIT = """# Made by Firstlight
[Unit]
Description=vLLM, provisioned by Firstlight
After=network-online.target
StartLimitIntervalSec=1800

[Service]
Type=exec
User=firstlight
EnvironmentFile=/opt/firstlight/etc/service.env
ExecStartPre=+/opt/p -I --port 8000
ExecStart=/opt/v serve "/m/a b" --port 8000
TimeoutStartSec=120
RestartSec=10
LimitNOFILE=1048576
LimitMEMLOCK=infinity
UMask=0077
ProtectHome=read-only
PrivateTmp=true
CapabilityBoundingSet=
DeviceAllow=char-nvidia* rwm
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallFilter=@system-service pidfd_open
"""
PLAN = ServicePlan(
    "systemd",
    "firstlight-vllm.service",
    UNIT,
    "/etc/systemd/system/firstlight-vllm.service",
    environment={"HF_HUB_OFFLINE": "1", "OMP": 'a "b"'},
)
ENVIRONMENT = 'HF_HUB_OFFLINE=1\nOMP="a \\"b\\""\nVLLM_API_KEY=the-key-itself\n'
SOUND = UnitFacts(
    ServiceState("active (running)", runs=True, main_pid=7, shown=SHOWN), fragment=UNIT, environment=ENVIRONMENT
)


def shown(**values: str) -> UnitFacts:
    return replace(SOUND, state=replace(SOUND.state, shown={**SHOWN, **values}))


def test_a_unit_as_planned_passes_in_every_field_of_the_plan() -> None:
    assert differences(directives(UNIT), SHOWN) == {}
    assert evaluate(PLAN, SOUND).status == "ok"


@pytest.mark.parametrize(
    ("directive", "values"),
    [
        ("Environment", {"Environment": "PYTHONPATH=/tmp/x"}),
        ("ExecStart", {"ExecStart": SHOWN["ExecStart"].replace("8000", "8001")}),
        ("ExecStartPre", {"ExecStartPre": f"{SHOWN['ExecStartPre']} {SHOWN['ExecStartPre'].replace('/opt/p', '/x')}"}),
        ("EnvironmentFile", {"EnvironmentFiles": f"{SHOWN['EnvironmentFiles']} /x (ignore_errors=yes)"}),
        ("User", {"User": ""}),
        ("StartLimitIntervalSec", {"StartLimitIntervalUSec": "10s"}),
        ("LimitNOFILE", {"LimitNOFILE": "1024"}),
        ("LimitNPROC", {"LimitNPROC": "64"}),
        ("LimitMEMLOCK", {"LimitMEMLOCK": "65536"}),
        ("MemoryMax", {"MemoryMax": "1073741824"}),
        ("UMask", {"UMask": "0022"}),
        ("ProtectHome", {"ProtectHome": "no"}),
        ("PrivateTmp", {"PrivateTmp": "no"}),
        ("CapabilityBoundingSet", {"CapabilityBoundingSet": "cap_sys_admin"}),
        ("DeviceAllow", {"DeviceAllow": "char-rtc r"}),
        ("RestrictAddressFamilies", {"RestrictAddressFamilies": "AF_INET"}),
        ("SystemCallFilter", {"SystemCallFilter": ""}),
        ("SystemCallFilter", {"SystemCallFilter": f"{SHOWN['SystemCallFilter']} ptrace"}),
        ("SystemCallFilter", {"SystemCallFilter": "accept bind"}),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_every_kind_of_field_that_differs_is_named(directive: str, values: dict[str, str]) -> None:
    assert set(differences(directives(UNIT), {**SHOWN, **values})) == {directive}
    outcome = evaluate(PLAN, shown(**values))
    assert (outcome.status, outcome.reason) == ("fail", f"systemd has other values than planned: {directive}")


RECORD = """Requires=system.slice sysinit.target
RuntimeMaxUSec=infinity
OOMScoreAdjust=0
DeviceAllow=char-rtc r
NeedDaemonReload=no
MemoryKSM=no
"""
"""Lines of PREFIX/state.unit."""


def test_a_property_that_the_plan_does_not_decide_is_compared_with_its_record() -> None:
    before = recorded(RECORD)
    assert before == {"Requires": "system.slice sysinit.target", "OOMScoreAdjust": "0", "MemoryKSM": "no"}
    assert changed(before, {"Requires": "sysinit.target system.slice", "OOMScoreAdjust": "0"}) == {}
    found = changed(before, {"Requires": "x.service sysinit.target system.slice", "OOMScoreAdjust": "900"})
    assert found["OOMScoreAdjust"] == ("0", "900")
    outcome = evaluate(PLAN, replace(SOUND, changed=found))
    assert (outcome.status, outcome.reason) == (
        "fail", "systemd has other values than planned: Requires, OOMScoreAdjust"
    )  # fmt: skip


@pytest.mark.parametrize("values", [{"RuntimeMaxUSec": "12h"}, {"Conflicts": "shutdown.target x.service"}])
def test_a_drop_in_for_all_services_that_ends_this_one_is_named(values: dict[str, str]) -> None:
    path = "/etc/systemd/system/service.d/50-x.conf"
    outcome = evaluate(PLAN, replace(shown(**values), drop_ins={path: "[Service]\n"}))
    assert (outcome.status, outcome.reason.partition(" change ")[0]) == ("fail", f"drop-ins of all services ({path})")
    assert evaluate(PLAN, shown(RuntimeMaxUSec="infinity", Conflicts="shutdown.target")).status == "ok"


def test_a_field_that_an_older_systemd_lacks_is_not_compared() -> None:
    older = {name: value for name, value in SHOWN.items() if name not in ("ProtectHome", "RestrictAddressFamilies")}
    assert differences(directives(UNIT), older) == {}


def test_a_drop_in_of_all_services_counts_if_it_changes_our_unit() -> None:
    path = "/usr/lib/systemd/system/service.d/10-timeout-abort.conf"
    assert evaluate(PLAN, replace(SOUND, drop_ins={path: ""})).status == "ok"
    outcome = evaluate(PLAN, replace(shown(ProtectHome="no"), drop_ins={path: ""}))
    assert (outcome.status, outcome.reason) == ("fail", f"drop-ins of all services ({path}) change ProtectHome")


DROP_IN = "/etc/systemd/system/firstlight-vllm.service.d/override.conf"
OVERRIDE = "[Service]\n# a comment\nEnvironment=PYTHONPATH=/tmp/x\nNoNewPrivileges=no\n"


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            replace(SOUND, fragment=UNIT.replace("0077", "0022")),
            "the unit's file is not the planned one: UMask differs",
        ),
        (shown(FragmentPath="/run/systemd/system/x"), "systemd reads /run/systemd/system/x instead of /etc/systemd"),
        (shown(NeedDaemonReload="yes"), "the unit's files have changed since systemd read them"),
        (shown(UnitFileState="masked"), "the unit is masked"),
        (replace(SOUND, drop_ins={DROP_IN: OVERRIDE}), f"drop-in {DROP_IN} changes Environment, NoNewPrivileges"),
        (replace(SOUND, environment=None), "etc/service.env does not exist"),
        (
            replace(SOUND, environment=ENVIRONMENT.replace("\n", "\r\n")),
            "etc/service.env has carriage returns at the ends of its lines",
        ),
        (replace(SOUND, environment=ENVIRONMENT.replace("VLLM_API_KEY", "X")), "no API key, and one is planned"),
        (replace(SOUND, environment=f"{ENVIRONMENT}LD_PRELOAD=/x.so\n"), "differs from the plan in LD_PRELOAD"),
        (replace(SOUND, environment=ENVIRONMENT.replace("=1", "=0")), "differs from the plan in HF_HUB_OFFLINE"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_files_that_differ_from_the_plan_are_failures_without_a_secret(facts: UnitFacts, words: str) -> None:
    outcome = evaluate(PLAN, facts)
    assert outcome.status == "fail"
    assert words in outcome.reason
    assert "the-key-itself" not in str(outcome)


@pytest.mark.parametrize("failed", [False, True])
def test_a_planned_service_that_does_not_serve_is_a_failure(failed: bool) -> None:
    state = ServiceState("failed (failed)" if failed else "inactive (dead)", runs=False, failed=failed, shown=SHOWN)
    outcome = evaluate(PLAN, replace(SOUND, state=state))
    assert outcome.status == "fail"
    assert f"should be running and is {state.text}" in outcome.reason
    assert outcome.remedy == "start it: ./firstlight serve"


def test_an_intended_stop_is_recognised() -> None:
    state = ServiceState("inactive (dead)", runs=False, shown=SHOWN)
    outcome = evaluate(PLAN, replace(SOUND, state=state, stopped_by="it was stopped by ./firstlight stop at T"))
    assert (outcome.status, outcome.reason) == (
        "skip",
        "firstlight-vllm.service: it was stopped by ./firstlight stop at T",
    )


BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ENDED = ServiceState("inactive", runs=False, ended=59.0)


@pytest.mark.parametrize(
    ("boot", "state", "holds"),
    [
        (BOOT, ENDED, True),
        (BOOT, replace(ENDED, ended=61.0), False),
        (BOOT, replace(ENDED, text="failed", failed=True), False),
        ("another", ENDED, False),
        ("", ENDED, False),
    ],
    ids=["of this end", "of an earlier end", "it failed", "of an earlier boot", "broken"],
)
def test_a_record_of_a_stop_applies_only_to_its_own_stop(
    tmp_path: Path, boot: str, state: ServiceState, holds: bool
) -> None:
    service = Service(tmp_path, {"unit": "firstlight-vllm.service", "supervisor": "systemd"}, None)
    assert stopped_by(service, state) is None
    (tmp_path / "etc").mkdir()
    record = json.dumps({"at": "T", "boot_id": boot, "monotonic": 60.0}) if boot else "{"
    (tmp_path / "etc" / "stopped.json").write_text(record)
    assert (stopped_by(service, state) == "it was stopped by ./firstlight stop at T") == holds


def test_under_supervisord_its_configuration_is_the_unit() -> None:
    planned = ServicePlan("supervisor", "firstlight-vllm", config="[program:x]\ncommand=/p --user u -- /v serve 50%%\n")
    state = ServiceState("RUNNING", runs=True, main_pid=7)
    assert (planned.argv, planned.user) == (("/v", "serve", "50%"), "u")
    sound = UnitFacts(state, fragment=planned.config, environment="VLLM_API_KEY=k\n")
    assert evaluate(planned, sound).status == "ok"
    assert evaluate(planned, replace(sound, fragment="[program:x]\n")).status == "fail"


def test_the_command_is_read_as_by_systemd() -> None:
    planned = ServicePlan("systemd", "x", '[Service]\nExecStart=/v serve "/m/a b" --x "50%%" "$$y \\"z\\""\n')
    assert planned.argv == ("/v", "serve", "/m/a b", "--x", "50%", '$y "z"')
