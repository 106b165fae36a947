"""What stops a service later, from systemd 252's output for several units, and from files of scheduled commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from verify.checks.serving.later import ScheduleFacts, conflicts, is_reached, stopping
from verify.checks.serving.later import evaluate_schedule as evaluate
from verify.serving.service_control import units
from verify.serving.service_plan import ServicePlan

SHOWN = """Id=graphical.target
Names=default.target graphical.target
Requires=multi-user.target
Wants=display-manager.service
Conflicts=shutdown.target rescue.service rescue.target
ActiveState=active

Id=multi-user.target
Names=multi-user.target
Requires=basic.target
Wants=firstlight-vllm.service ssh.service
Conflicts=rescue.service shutdown.target rescue.target
ActiveState=active

Id=firstlight-vllm.service
Names=firstlight-vllm.service
Conflicts=shutdown.target
ActiveState=active

Unit=apt-daily.service
NextElapseUSecRealtime=Fri 2026-11-27 10:07:43 UTC
Id=apt-daily.timer
Names=apt-daily.timer
Conflicts=shutdown.target
ActiveState=active

ExecStart={ path=/usr/lib/apt/apt.systemd.daily ; argv[]=/usr/lib/apt/apt.systemd.daily update ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }
Id=apt-daily.service
Names=apt-daily.service
Conflicts=shutdown.target
ActiveState=inactive
"""
TIMER = """
Unit=nightly.service
NextElapseUSecRealtime=Sat 2026-11-28 03:00:00 UTC
Id=nightly.timer
Names=nightly.timer
ActiveState={state}

ExecStart={{ path=/usr/bin/systemctl ; argv[]={command} ; ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }}
Id=nightly.service
Names=nightly.service
ActiveState=inactive
"""
UNIT = "firstlight-vllm.service"
PLAN = ServicePlan("systemd", UNIT, "[Service]\nUser=firstlight\n\n[Install]\nWantedBy=multi-user.target\n")
CRON = {
    "/etc/cron.d/e2scrub_all": "# restart firstlight-vllm\n30 3 * * 0 root test -e /run/systemd/system || /usr/sbin/e2scrub_all -C\n"
}
SOUND = ScheduleFacts(units(SHOWN), "graphical.target", CRON)


def with_units(more: str) -> ScheduleFacts:
    return replace(SOUND, loaded=units(f"{SHOWN}{more}"))


def test_a_host_with_its_own_timers_and_commands_passes() -> None:
    outcome = evaluate(PLAN, SOUND)
    assert (outcome.status, outcome.evidence["stops"]) == ("ok", [])
    assert "graphical.target; none of 1 timers and 1 files" in outcome.reason


def test_a_unit_that_conflicts_is_named_wherever_the_conflict_is_written() -> None:
    other = "\nId=burn-in.service\nNames=burn-in.service\nConflicts=shutdown.target firstlight-vllm.service\n"
    outcome = evaluate(PLAN, with_units(other))
    assert (outcome.status, outcome.reason) == (
        "warn", "burn-in.service conflicts with it: a start of either one stops the other one"
    )  # fmt: skip
    assert list(conflicts(UNIT, SOUND.loaded)) == []


@pytest.mark.parametrize(
    ("command", "state", "is_found"),
    [
        ("/usr/bin/systemctl stop firstlight-vllm", "active", True),
        ("/usr/bin/systemctl stop firstlight-vllm", "inactive", False),
        ("/bin/sh -c pkill -f vllm", "active", True),
        ("/usr/sbin/shutdown -r now", "active", True),
        ("/usr/bin/systemctl reboot", "active", True),
        ("/usr/bin/systemctl restart nginx.service", "active", False),
        ("/usr/lib/needrestart/reboot-notify firstlight-vllm", "active", False),
    ],
)
def test_a_timer_that_stops_the_service_or_the_host_is_named_with_its_time(
    command: str, state: str, *, is_found: bool
) -> None:
    outcome = evaluate(PLAN, with_units(TIMER.format(command=command, state=state)))
    text = f"nightly.timer starts nightly.service at Sat 2026-11-28 03:00:00 UTC, which runs `{command}`"
    assert (outcome.status, outcome.evidence["stops"]) == (("warn", [text]) if is_found else ("ok", []))


def test_timers_of_this_product_are_its_own() -> None:
    facts = with_units(TIMER.format(command="/usr/bin/systemctl stop firstlight-vllm", state="active"))
    assert evaluate(PLAN, replace(facts, own=("nightly.timer", "nightly.service"))).status == "ok"


def test_a_script_that_a_command_names_is_searched(tmp_path: Path) -> None:
    script = tmp_path / "nightly"
    script.write_text(
        "#!/bin/sh\n# systemctl stop firstlight-vllm\nreboot-notify\nsystemctl stop firstlight-vllm.service\n"
    )
    cron = {"/etc/cron.daily/nightly": str(script), "/etc/crontab": "0 4 * * * root /sbin/reboot\n"}
    assert evaluate(PLAN, replace(SOUND, cron=cron)).evidence["stops"] == [
        f"/etc/cron.daily/nightly runs `{script}: systemctl stop firstlight-vllm.service`",
        "/etc/crontab runs `0 4 * * * root /sbin/reboot`",
    ]
    assert stopping(UNIT, "/bin/true", lambda _: "\x7fELF") is None


@pytest.mark.parametrize(
    ("rule", "is_found"),
    [
        ("e /opt/firstlight/models - - - 10d", True),
        ("d /opt 0755 root root 30d -", True),
        ("R! /opt/*", True),
        ("D /opt/firstlight/cache", True),
        ("d /opt/firstlight 0755 root root - -", False),
        ("q /tmp 1777 root root 10d", False),
        ("# R /opt/firstlight", False),
        ("e /opt/firstlights - - - 10d", False),
        ("", False),
    ],
)
def test_a_rule_that_deletes_files_of_the_service_is_named(rule: str, *, is_found: bool) -> None:
    outcome = evaluate(PLAN, replace(SOUND, tmpfiles={"/etc/tmpfiles.d/x.conf": f"{rule}\n"}))
    text = f"/etc/tmpfiles.d/x.conf deletes files of /opt/firstlight: `{rule}`"
    assert outcome.evidence["stops"] == ([text] if is_found else [])


def test_a_boot_into_another_target_does_not_start_the_service() -> None:
    outcome = evaluate(PLAN, replace(SOUND, default="rescue.target"))
    assert (outcome.status, outcome.remedy) == (
        "fail", "reboot into the former target: systemctl set-default multi-user.target"
    )  # fmt: skip
    assert "it ends in rescue.target, which does not start multi-user.target" in outcome.reason
    assert is_reached("multi-user.target", "default.target", SOUND.loaded), "by another name of the target"


def test_a_users_manager_that_does_not_linger_does_not_start_at_boot() -> None:
    remedy = evaluate(PLAN, replace(SOUND, lingers=False)).remedy
    assert remedy == "let the account's manager start at boot: loginctl enable-linger"
