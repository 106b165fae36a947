"""What stops a service later, and what its next start would find.

From the output of systemd 252 and of glibc 2.36, files of scheduled commands, and folders of this machine.
"""

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from verify.checks.serving import later
from verify.checks.serving.later import ScheduleFacts, StartFacts, conflicts, evaluate_start, is_reached, stopping
from verify.checks.serving.later import evaluate_schedule as evaluate
from verify.serving.service_control import units
from verify.serving.service_plan import ServicePlan
from verify.tables import table

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


LDD = """\tlinux-vdso.so.1 (0x00007fd2a1ce6000)
\tlibnuma.so.1 => /lib/x86_64-linux-gnu/libnuma.so.1 (0x00007fd29f93c000)
\tlibtorch.so => not found
\tlibstdc++.so.6 => /lib/x86_64-linux-gnu/libstdc++.so.6 (0x00007fd29f716000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007fd2a1ce8000)
"""
CACHE = """214 libs found in cache `/etc/ld.so.cache'
\tlibnuma.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libnuma.so.1
\tlibgomp.so.1 (libc6,x86-64) => /lib/x86_64-linux-gnu/libgomp.so.1
Cache generated by: ldconfig (Debian GLIBC 2.36-9+deb12u13) stable release version 2.36
"""
STARTED = ServicePlan("systemd", "firstlight-vllm.service", "[Service]\n", environment={"HF_HUB_OFFLINE": "1"})
START = StartFacts(
    {"LANG": "C.UTF-8", "PATH": "/usr/bin", "HF_HUB_OFFLINE": "0"},
    {"/e/vllm/_C.abi3.so": LDD},
    frozenset({"libtorch.so"}),
    CACHE,
)


def test_a_start_that_finds_everything_passes() -> None:
    outcome = evaluate_start(STARTED, START)
    assert (outcome.status, outcome.evidence["problems"]) == ("ok", [])


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"environment": {"LD_LIBRARY_PATH": "/srv/l"}}, "fail", "the next start would get LD_LIBRARY_PATH=/srv/l"),
        ({"environment": {"https_proxy": "http://u:p@x"}}, "warn", "the next start would get https_proxy"),
        ({"environment": {"OMP_NUM_THREADS": "1"}}, "warn", "the next start would get OMP_NUM_THREADS"),
        (
            {"loader": {"/e/_C.so": LDD.replace("/lib/x86_64-linux-gnu/libnuma.so.1 (0x00007fd29f93c000)", "not found")}},
            "fail",
            "the loader does not find libnuma.so.1 for /e/_C.so",
        ),
        (
            {"cache": CACHE.replace("/lib/x86_64-linux-gnu/libgomp", "/srv/lib/libgomp")},
            "warn",
            "the loader finds libgomp.so.1 at /srv/lib/libgomp.so.1, outside the folders of the system",
        ),
        ({"owned": ("/p/cache/x belongs to user 0, and the service runs as 999",)}, "fail", "/p/cache/x belongs to user 0, and the service runs as 999"),
        ({"names": {"localhost": ("10.9.9.9",)}}, "fail", "localhost is 10.9.9.9, which is not this host"),
    ],
)  # fmt: skip
def test_each_condition_that_differs_is_named(change: dict[str, object], status: str, text: str) -> None:
    outcome = evaluate_start(STARTED, replace(START, **change))  # type: ignore[arg-type]
    assert (outcome.status, outcome.reason) == (status, text)


def test_folders_of_the_service_must_be_its_own(tmp_path: Path) -> None:
    for name in ("cache", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "cache/compiled").touch()
    plan = ServicePlan("systemd", "x", f"[Service]\nReadWritePaths={tmp_path}/cache {tmp_path}/run {tmp_path}/logs\n")
    mine = os.getuid()
    assert list(later._not_owned(tmp_path, plan, mine)) == [f"{tmp_path}/run is gone"]
    (tmp_path / "run").mkdir()
    assert list(later._not_owned(tmp_path, plan, mine)) == []
    assert f"{tmp_path}/cache/compiled belongs to user {mine}, and the service runs as 4242" in list(
        later._not_owned(tmp_path, plan, 4242)
    )
    for name in ("run/supervisord.pid", "run/supervisor.sock", "run/drained.json"):
        (tmp_path / name).touch()
    assert f"{tmp_path}/run/" not in str(list(later._not_owned(tmp_path, plan, 4242))), "root's"


def test_a_service_must_find_room_where_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    plan = ServicePlan("systemd", "x", f"[Service]\nReadWritePaths={tmp_path}/home\n")

    def found(flags: int = 0, blocks: int = 1 << 20, files: int = 5000) -> list[str]:
        # In the order of statvfs(3): sizes of blocks, blocks, files, flags, longest name.
        disk = os.statvfs_result((4096, 4096, blocks, blocks, blocks, 9999, files, files, flags, 255))
        monkeypatch.setattr("os.statvfs", lambda _: disk)
        return sorted(set(later._not_owned(tmp_path, plan, os.getuid())))

    assert found() == []
    assert found(flags=os.ST_RDONLY) == [f"{tmp_path}/home is on a file system that is mounted read-only"]
    assert found(blocks=300) == [f"{tmp_path}/home has room for 1 MiB and 5000 files"]
    assert found(files=7) == [f"{tmp_path}/home has room for 4096 MiB and 7 files"]


def test_shared_memory_must_be_for_every_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shm"
    monkeypatch.setitem(table("start")["folders"], "shared", str(shared))
    assert list(later._shared_memory(4242)) == [f"{shared} is gone"]
    shared.mkdir(mode=0o755)
    assert list(later._shared_memory(4242)) == [f"{shared} can be written by root only"]
    assert list(later._shared_memory(0)) == []
    shared.chmod(0o1777)
    assert list(later._shared_memory(4242)) == []


def test_names_are_resolved_as_a_server_does(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = {"localhost": "127.0.0.1"}

    def resolve(name: str, _: object) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if name not in addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(2, 1, 6, "", (addresses[name], 0))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    assert list(later._elsewhere("localhost")) == []
    addresses.update(localhost="192.0.2.7", host2="192.0.2.7")
    assert list(later._elsewhere("localhost")) == ["192.0.2.7"]
    assert list(later._elsewhere("host2")) == ["192.0.2.7"]
    assert list(later._elsewhere("nameless")) == []
