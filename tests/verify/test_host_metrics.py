"""Metrics of a host as Prometheus reads them: the health of cards in NVML's and amd-smi's answers, release, verification."""

import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from provision.phases.verify.tool import zipapp
from tests.features.monitoring.programs import program
from tests.verify.localhost import program as script
from tests.verify.test_amd_cards import METRICS, ROCM_6
from tests.verify.test_devices import function
from verify.cli import main as cli
from verify.host import metrics as host_metrics
from verify.host.views import Gpu, amd_smi, kernel_log, pci
from verify.host.views.kernel_log import Line
from verify.host.views.nvml import Fabric, Health

CARD = Health(
    "0000:1b:00.0",
    "NVIDIA H200",
    uncorrected=(1, 3),
    remapped=(4, 5),
    remap_pending=True,
    remap_failed=False,
    clock_reasons=0x48,
    temperature_c=61,
    memory_c=74,
    power_w=412.5,
    power_limit_w=700.0,
    links=(True, True, False),
    link_errors={"replay": 2},
    fabric=Fabric(state=3, status=0, health=0),
)


def lines_of(*families: host_metrics.Family) -> list[str]:
    return [line for line in host_metrics.render(families).splitlines() if not line.startswith("#")]


def check(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program("promtool"), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )


def test_all_that_nvml_says_of_a_card_becomes_a_metric() -> None:
    lines = lines_of(*host_metrics.nvidia_families([CARD]))
    card = 'card="0000:1b:00.0"'
    for line in (
        f'firstlight_card_info{{{card},name="NVIDIA H200"}} 1',
        f"firstlight_card_temperature_celsius{{{card}}} 61.0",
        f"firstlight_card_memory_temperature_celsius{{{card}}} 74.0",
        f"firstlight_card_power_watts{{{card}}} 412.5",
        f"firstlight_card_power_limit_watts{{{card}}} 700.0",
        f"firstlight_card_ecc_uncorrected_errors_total{{{card}}} 3",
        f'firstlight_card_remapped_rows_total{{{card},errors="corrected"}} 4',
        f'firstlight_card_remapped_rows_total{{{card},errors="uncorrected"}} 5',
        f"firstlight_card_row_remap_pending{{{card}}} 1.0",
        f"firstlight_card_row_remap_failed{{{card}}} 0.0",
        f'firstlight_card_slowed{{{card},reason="hardware slowdown",status="fail"}} 1',
        f'firstlight_card_slowed{{{card},reason="idle",status="ok"}} 0',
        f"firstlight_card_links_up{{{card}}} 2",
        f'firstlight_card_link_errors_total{{{card},kind="replay"}} 2',
        f"firstlight_card_fabric_registered{{{card}}} 1",
    ):
        assert line in lines


def test_a_card_whose_links_are_all_down_has_none_up() -> None:
    lines = lines_of(*host_metrics.nvidia_families([replace(CARD, links=(False, False))]))
    assert 'firstlight_card_links_up{card="0000:1b:00.0"} 0' in lines


def test_an_amd_card_that_keeps_its_power_cap_under_load_is_not_slowed_by_a_fault() -> None:
    (row, *_) = amd_smi.METRICS.parse(METRICS)
    lines = lines_of(*host_metrics.amd_families([], [replace(row, throttling={"throttled": True})]))
    assert 'firstlight_card_slowed{card="0",reason="throttled",status="ok"} 1' in lines


def test_what_a_card_does_not_report_is_left_out() -> None:
    lines = lines_of(*host_metrics.nvidia_families([Health("0000:01:00.0", "NVIDIA L4")]))
    assert lines == ['firstlight_card_info{card="0000:01:00.0",name="NVIDIA L4"} 1']


def test_a_card_that_left_its_fabric_is_not_registered() -> None:
    lost = replace(CARD, fabric=Fabric(state=2, status=0, health=0))
    lines = lines_of(*host_metrics.nvidia_families([lost, replace(CARD, pci="0000:1c:00.0")]))
    assert 'firstlight_card_fabric_registered{card="0000:1b:00.0"} 0' in lines


@pytest.mark.parametrize(
    ("fabric", "found"),
    [
        (Fabric(state=2, status=0, health=0), []),
        (Fabric(state=3, status=1, health=0), ['firstlight_card_fabric_registered{card="0000:1b:00.0"} 0']),
    ],
    ids=["it never completes", "it failed"],
)
def test_a_single_card_needs_no_fabric(fabric: Fabric, found: list[str]) -> None:
    lines = lines_of(*host_metrics.nvidia_families([replace(CARD, fabric=fabric)]))
    assert [line for line in lines if "fabric" in line] == found


def test_all_that_amd_smi_says_of_a_card_becomes_a_metric() -> None:
    lines = lines_of(*host_metrics.amd_families(amd_smi.ERRORS.parse(ROCM_6), amd_smi.METRICS.parse(METRICS)))
    for line in (
        'firstlight_card_power_watts{card="0"} 142.0',
        'firstlight_card_slowed{card="0",reason="socket_thermal",status="warn"} 1',
        'firstlight_card_slowed{card="0",reason="prochot",status="fail"} 0',
        'firstlight_card_slowed{card="0",reason="ppt",status="ok"} 1',
        'firstlight_card_ecc_uncorrected_errors_total{card="0"} 0',
    ):
        assert line in lines
    assert not [line for line in lines if 'errors_total{card="1"}' in line], "it does not count them"


def test_events_of_the_kernel_log_are_counted_by_kind() -> None:
    log = [
        Line(1.0, "NVRM: Xid (PCI:0000:1b:00): 79, pid=1, GPU has fallen off the bus."),
        Line(2.0, "NVRM: Xid (PCI:0000:1b:00): 31, pid=7, name=python"),
        Line(3.0, "NVRM: Xid (PCI:0000:1b:00): 31, pid=8, name=python"),
        Line(4.0, "eth0: link is up"),
    ]
    assert lines_of(host_metrics.xid_family(log)) == [
        'firstlight_xid_events_total{event="Xid",card="0000:1b:00",number="31",kind="process"} 2',
        'firstlight_xid_events_total{event="Xid",card="0000:1b:00",number="79",kind="card"} 1',
    ]


def test_a_driver_that_does_not_answer_reports_no_card() -> None:
    assert lines_of(*host_metrics.count_families({"nvidia": 8}, {"nvidia": 0})) == [
        'firstlight_cards_on_bus{vendor="nvidia"} 8',
        'firstlight_cards{vendor="nvidia"} 0',
    ]


def test_amd_gpus_are_not_lost_where_nobody_asks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without amd-smi, as on a host whose only AMD GPU is its processor's."""
    monkeypatch.setattr(pci, "gpus", lambda vendor, **_: (Gpu("0000:0e:00.0"),) if vendor == "amd" else ())
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: None)
    assert "firstlight_cards{" not in host_metrics.render(host_metrics.read_families(tmp_path))
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: ())
    assert 'firstlight_cards{vendor="amd"} 0' in host_metrics.render(host_metrics.read_families(tmp_path))


def test_faults_of_a_processors_graphics_beside_nvidia_gpus_are_not_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    function(tmp_path / "bus", "0000:1b:00.0", "0x10de", "0x030200", "0x2330")
    function(tmp_path / "bus", "0000:0e:00.0", "0x1002", "0x030000", "0x164e")
    log = [
        Line(1.0, "amdgpu 0000:0e:00.0: amdgpu: Fatal error during GPU init"),
        Line(2.0, "NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus."),
    ]
    monkeypatch.setattr(pci, "gpus", partial(pci.gpus, devices=tmp_path / "bus"))
    monkeypatch.setattr(kernel_log, "lines", lambda: log)
    monkeypatch.setattr(amd_smi.Query, "ask", lambda _: None)
    text = host_metrics.render(host_metrics.read_families(tmp_path))
    assert ('event="Xid"' in text, 'event="amdgpu"' in text) == (True, False)


@pytest.mark.parametrize(("build", "counted"), [("cpu", False), ("cu130", True)])
def test_a_card_that_serves_nothing_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, *, counted: bool
) -> None:
    """No driver answers for the console's card of a server whose environment is for its processors."""
    monkeypatch.setattr(pci, "gpus", lambda vendor, **_: (Gpu("0000:01:00.0"),) if vendor == "nvidia" else ())
    (tmp_path / "current").mkdir()
    (tmp_path / "current/stack.json").write_text(json.dumps({"torch": {"variant": build}}))
    text = host_metrics.render(host_metrics.read_families(tmp_path))
    assert ('firstlight_cards_on_bus{vendor="nvidia"} 1' in text) is counted


@pytest.mark.slow
def test_prometheus_accepts_names_types_and_quoted_labels() -> None:
    families = [
        *host_metrics.nvidia_families([replace(CARD, name='a "GPU" \\ of\nmine')]),
        *host_metrics.count_families({"nvidia": 1}, {"nvidia": 1}),
    ]
    done = check(host_metrics.render(families))
    assert done.returncode == 0, done.stdout + done.stderr


def install(prefix: Path, **runs: str) -> None:
    """Make an installation with a release and the runs of checks at each level."""
    release = prefix / "releases" / "0123456789abcdef"
    release.mkdir(parents=True)
    (prefix / "current").symlink_to("releases/0123456789abcdef/environment")
    (prefix / "verify").mkdir()
    (prefix / "state.json").write_text(json.dumps({"readiness": {"served_name": "org/m", "unit": "none.service"}}))
    ready = {"release": "0123456789abcdef", "record": {"attention": {"used": "FLASH_ATTN"}}}
    (prefix / "verify/ready.json").write_text(json.dumps(ready))
    found: dict[str, Any] = {
        level: {"status": status, "started_at": f"2026-11-0{day}T00:00:00Z"}
        for day, (level, status) in enumerate(runs.items(), 1)
    }
    last = list(runs.values())[-1]
    (prefix / "verify/last.json").write_text(json.dumps({"status": last, "level": "quick", "runs": found}))


@pytest.mark.parametrize(
    ("runs", "passed", "status"),
    [
        ({"full": "ok", "quick": "warn"}, 1793577600.0, "warn"),
        ({"full": "ok", "quick": "fail"}, 1793491200.0, "fail"),
        ({"quick": "error"}, 0.0, "error"),
    ],
)
def test_a_host_without_cards_says_its_release_and_its_last_verification(
    tmp_path: Path, runs: dict[str, str], passed: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci, "gpus", lambda _vendor, **_: ())
    install(tmp_path, **runs)
    assert cli.main(["metrics", "--prefix", str(tmp_path), "--write", str(tmp_path / "text/f.prom")]) == 0
    text = (tmp_path / "text/f.prom").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert 'firstlight_release_info{release="0123456789abcdef",model="org/m",attention="FLASH_ATTN"} 1' in lines
    assert f"firstlight_verify_last_passed_timestamp_seconds {passed!r}" in lines
    assert f'firstlight_verify_status{{status="{status}"}} 1' in lines
    assert "firstlight_card" not in text
    assert [path.name for path in (tmp_path / "text").iterdir()] == ["f.prom"]
    assert check(text).returncode == 0


def test_the_first_service_of_a_machine_says_the_results_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci, "gpus", lambda _vendor, **_: ())
    for name, status in (("fl@chat", "ok"), ("fl@small", "fail"), ("other", "error")):
        install(tmp_path / name, quick=status)
    text = host_metrics.render(host_metrics.read_families(tmp_path / "fl@chat"))
    lines = [line for line in text.splitlines() if line.startswith("firstlight_verify_status")]
    assert lines == [
        'firstlight_verify_status{status="ok",service="chat"} 1',
        'firstlight_verify_status{status="fail",service="small"} 1',
    ]
    assert check(text).returncode == 0, "each metric is described once"


def test_an_attention_that_an_earlier_release_used_is_not_reported(tmp_path: Path) -> None:
    install(tmp_path, quick="ok")
    (tmp_path / "verify/ready.json").write_text('{"release": "other", "record": {"attention": {"used": "X"}}}')
    assert 'attention=""' in host_metrics.render(host_metrics.read_families(tmp_path))


def test_the_tool_of_a_host_runs_it_without_any_package(tmp_path: Path) -> None:
    (tmp_path / "verify.pyz").write_bytes(zipapp())
    install(tmp_path / "prefix", quick="ok")
    words = [sys.executable, "-I", "-S", str(tmp_path / "verify.pyz"), "metrics", "--prefix", str(tmp_path / "prefix")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "firstlight_release_info{" in done.stdout
    assert subprocess.run(words[:-2], capture_output=True, text=True, check=False).returncode == 64


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["metrics", "--prefix", str(tmp_path), "--write", str(tmp_path / "file/f.prom")]) == 3
    assert "cannot be written" in capsys.readouterr().err


@pytest.fixture
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation that serves; its folder is first on the PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "state.json").write_text('{"readiness": {"unit": "firstlight-vllm.service"}}')
    return tmp_path


def test_streams_that_vllm_ended_with_an_error_are_counted(serving: Path) -> None:
    for name, said in (
        ("systemctl", "ActiveState=active"),
        ("journalctl", "Error in completion stream generator.\nError in chat completion stream generator.\nINFO: ok"),
    ):
        script(serving / name, f"cat <<EOF\n{said}\nEOF")
    text = host_metrics.render(host_metrics.read_families(serving))
    assert "firstlight_stream_errors 2" in text.splitlines()


@pytest.mark.parametrize(
    ("actions", "active", "left_down"),
    [
        ([], "active", 0),
        (["restarted"], "active", 0),
        (["restarted", "left down"], "inactive", 1),
        (["restarted", "left down"], "active", 0),
        (["restarted"], "inactive", 0),
    ],
)
def test_what_the_watchdog_did_is_counted(serving: Path, actions: list[str], active: str, left_down: int) -> None:
    script(serving / "systemctl", f"echo ActiveState={active}")
    if actions:
        (serving / "health-agent").mkdir()
        noted = {"restarts": actions.count("restarted"), "events": [{"action": action} for action in actions]}
        (serving / "health-agent/watchdog.json").write_text(json.dumps(noted))
    lines = host_metrics.render(host_metrics.read_families(serving)).splitlines()
    assert f"firstlight_watchdog_restarts_total {actions.count('restarted')}" in lines
    assert f"firstlight_watchdog_left_down {left_down}" in lines
