"""Drift: differences between an installation and the state that its last run sealed, from the probe's output to facts."""

import pytest

from provision.core.models.facts import EngineProcess
from provision.phases.probe.parsers import drift
from provision.phases.probe.sections import Section

FOLDER = "/etc/systemd/system/firstlight-vllm.service.d"
START = "ExecStart={ path=/p/vllm ; argv[]=/p/vllm serve --dtype float32 ; ignore_errors=no"
SEALED = f"""FragmentPath=/etc/systemd/system/firstlight-vllm.service
DropInPaths=
NeedDaemonReload=no
UnitFileState=enabled
{START}
Environment=
ProtectSystem=strict
DeviceAllow=char-nvidia rwm
DeviceAllow=char-drm rw
SystemCallFilter=read write
Requires=system.slice sysinit.target
RuntimeMaxUSec=infinity
ExecStartPost="""


def unit(*changes_: tuple[str, str], last_run: str = "") -> list[str]:
    """Return the drift, as sentences, after texts of `systemctl show` were replaced."""
    text = SEALED
    for before, after in changes_:
        assert before in text
        text = text.replace(before, after)
    now = drift.properties(text.replace(" ignore_errors=no", f" ignore_errors=no{last_run}").split("\n"))
    return [f"{each.kind} {each.sentence}" for each in drift.unit(drift.properties(SEALED.split("\n")), now)]


def test_an_unchanged_unit_did_not_drift() -> None:
    assert unit() == []
    assert unit(last_run=" ; start_time=[Sat 2026-11-21 11:06:05 UTC] ; stop_time=[n/a] ; pid=71 ; status=0/0 }") == []
    assert unit(("=read write", "=read write landlock_restrict_self")) == []
    assert unit(("Requires=system.slice sysinit.target", "Requires=sysinit.target system.slice")) == []
    assert drift.unit({}, drift.properties(SEALED.split("\n"))) == []
    assert drift.unit(drift.properties(SEALED.split("\n")), {}) == []


def test_a_drop_in_of_our_unit_is_drift_with_its_changes() -> None:
    path = f"{FOLDER}/a.conf"
    drop_in = ("DropInPaths=", f"DropInPaths={path}")
    assert unit(drop_in) == [f"drop_in {path} is a drop-in for the unit"]
    changed = (("Environment=\n", "Environment=PYTHONPATH=/tmp/x\n"), ("--dtype float32", "--dtype bfloat16"))
    difference = "ExecStart=/p/vllm serve --dtype bfloat16; Environment=PYTHONPATH=/tmp/x, sealed with nothing"
    assert unit(drop_in, *changed) == [f"drop_in {path} is a drop-in for the unit ({difference})"]


def test_a_drop_in_for_all_services_is_drift_only_if_it_changes_our_unit() -> None:
    path = "/etc/systemd/system/service.d/all.conf"
    drop_in = ("DropInPaths=", f"DropInPaths={path}")
    assert unit(drop_in) == []
    assert unit(drop_in, ("ProtectSystem=strict", "ProtectSystem=no")) == [
        f"unit {path} is a drop-in for more than this unit (ProtectSystem=no, sealed with strict)"
    ]


def test_the_order_of_the_options_that_podman_gives_a_container_is_no_drift() -> None:
    now = "ExecStart={ path=/usr/bin/podman ; argv[]=/usr/bin/podman run --rm --pull never image ; ignore_errors=no"
    name, _, value = now.partition("=")
    sealed = drift.properties([f"{name}={' '.join(sorted(value.split()))}"])  # as the record has it
    assert drift.unit(sealed, drift.properties([now])) == []
    assert len(drift.unit(sealed, drift.properties([now.replace("--rm", "--privileged")]))) == 1


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("NeedDaemonReload=no", "NeedDaemonReload=yes", "systemd has not read its files since they changed"),
        ("UnitFileState=enabled", "UnitFileState=disabled", "UnitFileState=disabled, sealed with enabled"),
        ("DeviceAllow=char-drm rw\n", "", "DeviceAllow=char-nvidia rwm, sealed with char-nvidia rwm char-drm rw"),
        ("SystemCallFilter=read write", "SystemCallFilter=", "SystemCallFilter=, sealed with read write"),
        ("RuntimeMaxUSec=infinity", "RuntimeMaxUSec=1h", "RuntimeMaxUSec=1h, sealed with infinity"),
        ("ExecStartPost=", "ExecStartPost={ path=/x ; argv[]=/x --now ; ignore_errors=no", "ExecStartPost=/x --now"),
    ],
)
def test_settings_that_only_systemd_has_are_drift_of_the_unit(before: str, after: str, difference: str) -> None:
    assert unit((before, after)) == [
        f"unit /etc/systemd/system/firstlight-vllm.service would be started with {difference}"
    ]


@pytest.mark.parametrize(
    ("now", "kinds"),
    [
        ("600 0 0 483 100 200 /p/etc/a b", []),
        ("644 0 0 483 100 300 /p/etc/a b", ["permissions"]),
        ("600 5 0 483 100 300 /p/etc/a b", ["permissions"]),
        ("600 0 0 480 300 300 /p/etc/a b", ["file"]),
        ("600 0 0 483 100 300 /p/etc/a b", ["file"]),
        ("644 0 0 480 300 300 /p/etc/a b", ["permissions", "file"]),
        ("stat: cannot statx '/p/etc/a b': No such file or directory", ["file"]),
        ("stat: can't stat '/p/etc/a b': No such file or directory", ["file"]),
        ("stat: cannot statx '/p/etc/a b': Permission denied", None),
        ("stat: can't stat '/p/etc/a b': Permission denied", None),
    ],
)
def test_a_secret_is_sealed_with_mode_owner_size_and_times_and_an_unreadable_one_is_unknown(
    now: str, kinds: list[str] | None
) -> None:
    found, forbidden = drift.files(["600 0 0 483 100 200 /p/etc/a b"], [now], ())
    assert [each.kind for each in found] == (kinds or [])
    assert forbidden == (["/p/etc/a b"] if kinds is None else [])
    assert all(each.path == "/p/etc/a b" for each in found)


def test_of_a_folder_only_the_write_permissions_are_compared() -> None:
    sealed = ["755 0 0 - - - /p/etc"]
    assert drift.files(sealed, ["755 0 0 4096 7 8 /p/etc"], ()) == ([], [])
    [found] = drift.files(sealed, ["777 0 0 4096 7 8 /p/etc"], ())[0]
    assert found.sentence == "/p/etc has mode 0777 of 0:0, sealed with 0755 of 0:0"


def test_a_file_that_was_put_back_with_the_same_content_is_no_drift() -> None:
    later = ["600 0 0 483 300 300 /p/etc/a b"]
    for compared, kinds in ((["/p/etc/a b"], []), ([], ["file"])):
        found, _ = drift.files(["600 0 0 483 100 200 /p/etc/a b"], later, compared)
        assert [each.kind for each in found] == kinds, "other content is drift by its checksum"
    [other] = drift.files(["600 0 0 483 100 200 /p/a"], ["644 0 0 483 100 300 /p/a"], {"/p/a"})[0]
    assert other.kind == "permissions"


def test_what_others_may_write_to_below_an_environment_is_drift() -> None:
    [found] = drift.exposed(["777 0 0 /p/envs/1/lib/a b"])
    assert (found.kind, found.sentence) == (
        "permissions", "/p/envs/1/lib/a b has mode 0777 of 0:0: others may change it"
    )  # fmt: skip


def test_a_login_shell_of_the_services_account_is_drift() -> None:
    entry = "firstlight:x:999:997:Firstlight inference service:/opt/firstlight/home:"
    assert drift.account([f"{entry}/usr/sbin/nologin", f"{entry}/bin/false"]) == []
    assert [each.sentence for each in drift.account([f"{entry}/bin/bash", entry])] == [
        "/etc/passwd gives firstlight the login shell /bin/bash",
        "/etc/passwd gives firstlight the login shell /bin/sh",
    ]


def test_what_others_gave_or_left_is_named() -> None:
    lines = [
        "/etc/sudoers.d/x:firstlight ALL=(ALL) NOPASSWD: ALL",
        "/etc/group:docker:x:990:firstlight",
        "/etc/group:video:x:44:firstlight",
        "/var/backups/service.env",
        "/p/bin/helper",
        "/p/etc/set-aside/etc/x.conf",
        "/p/models/m/.complete",
    ]
    assert drift.foreign(lines, "/p") == (
        "/etc/sudoers.d/x gives the service's account sudo rights: `firstlight ALL=(ALL) NOPASSWD: ALL`",
        "the service's account is in group docker",
        "/var/backups/service.env has the API key, and everybody may read it",
        "/p/bin/helper is unknown: nobody installed it",
    )


def engine(pid: int, parent: int, state: str) -> EngineProcess:
    return EngineProcess(pid=pid, parent=parent, state=state, name="VLLM::EngineCore")


def test_only_a_stopped_process_of_the_service_is_drift() -> None:
    """A profiler stops processes too, for milliseconds, in state t."""
    engines = [engine(72, 71, "T"), engine(73, 72, "T"), engine(74, 72, "t"), engine(90, 1, "T")]
    assert [each.path for each in drift.processes(71, "S", engines)] == ["/proc/72", "/proc/73"]
    assert [each.path for each in drift.processes(71, "T", [engine(72, 71, "S")])] == ["/proc/71"]
    assert drift.processes(None, "", engines) == []


def test_a_section_without_files_is_read_as_before() -> None:
    section = Section(name="drift", text="/p/a: OK\n/p/b: FAILED", status=0)
    [found], unread = drift.differences(section, "0", {})
    assert (found.path, found.text, unread) == ("/p/b", "has another content", None)
