"""Monitoring in the summary of a run."""

from __future__ import annotations

from pathlib import Path

from provision.core.models.inventory import Connection, Host, Inventory
from provision.core.models.records import MonitoringRecord, PhaseResult
from provision.core.models.settings import Settings
from provision.core.run_folder import RunFolder
from provision.report import summarise
from provision.report.text import render

RECORD = MonitoringRecord(
    prometheus="http://127.0.0.1:9090",
    alertmanager="http://127.0.0.1:9093",
    targets={"vllm": ("gpu-1", "gpu-2"), "node": ("gpu-1", "gpu-2", "mon"), "gateway": ()},
    missing={"gpu-3": "vLLM listens on 127.0.0.1"},
)


def run_of(folder: Path, status: str) -> RunFolder:
    run = RunFolder.create(folder, command="monitoring")
    host = Host(name="mon", groups=("monitoring",), connection=Connection(kind="ssh"), settings=Settings())
    run.write("inventory.json", Inventory(source="hosts.yml", hosts=(host,)))
    result = PhaseResult(host="mon", phase="serve", status="ok", changed=True).model_dump() | {"status": status}
    run.write("phases.json", {"mon": {"serve": result}})
    run.write("monitoring/mon.json", RECORD)
    return run


def test_the_summary_says_what_is_read_where_and_what_is_missing(tmp_path: Path) -> None:
    summary = summarise(run_of(tmp_path, "warn"))
    [entry] = summary.hosts
    assert (entry.state, entry.monitoring, summary.verdict) == ("serving", RECORD, "amber")
    lines = render(summary).splitlines()
    for line in (
        "Monitoring http://127.0.0.1:9090 on mon for 3 hosts",
        "Monitoring",
        "  mon: Prometheus at http://127.0.0.1:9090, Alertmanager at http://127.0.0.1:9093 on the host",
        "    vllm: gpu-1, gpu-2",
        "    node: gpu-1, gpu-2, mon",
        "    missing: gpu-3: vLLM listens on 127.0.0.1",
    ):
        assert line in lines


def test_failed_monitoring_has_no_address(tmp_path: Path) -> None:
    assert summarise(run_of(tmp_path, "failed")).hosts[0].monitoring is None
