"""Monitoring in the summary of a run."""

from pathlib import Path

from provision.core.models.records import MonitoringRecord
from provision.report import summarise
from provision.report.text import render
from tests.report.sample import around

RECORD = MonitoringRecord(
    prometheus="http://127.0.0.1:9090",
    alertmanager="http://127.0.0.1:9093",
    targets={"vllm": ("gpu-1", "gpu-2"), "node": ("gpu-1", "gpu-2", "mon"), "gateway": ()},
    missing={"gpu-3": "vLLM listens on 127.0.0.1"},
)


def test_the_summary_says_what_is_read_where_and_what_is_missing(tmp_path: Path) -> None:
    summary = summarise(around(tmp_path, "monitoring", RECORD, status="warn"))
    [entry] = summary.hosts
    assert (entry.state, entry.monitoring, summary.verdict) == ("serving", RECORD, "amber")
    lines = render(summary).splitlines()
    for line in (
        "Monitoring http://127.0.0.1:9090 on gate for 3 hosts",
        "Monitoring",
        "  gate: Prometheus at http://127.0.0.1:9090, Alertmanager at http://127.0.0.1:9093 on the host",
        "    vllm: gpu-1, gpu-2",
        "    node: gpu-1, gpu-2, mon",
        "    missing: gpu-3: vLLM listens on 127.0.0.1",
    ):
        assert line in lines


def test_failed_monitoring_has_no_address(tmp_path: Path) -> None:
    assert summarise(around(tmp_path, "monitoring", RECORD, status="failed")).hosts[0].monitoring is None
