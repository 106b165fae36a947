"""How long after its fault an alert is sent to Alertmanager.

    python -m benchmarks.alerts

A real Prometheus with the files of a monitoring host reads 36 stub hosts, which are servers of this machine that offer metrics, and
sends its alerts to a server in place of Alertmanager. Each host gets its faults at a moment of its own, within ten seconds. What a timer of the
host writes is late by up to the timer's interval, which is added to the faults of cards. Intervals
decide, not the load of the machine, so the result is always kept. Aim: 60 s. Needs Debian's package.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.machine import header, publish
from provision.core.quantile import quantile
from provision.features.monitoring import unit_sets
from provision.features.monitoring.targets import Target
from tests.features.gateway.running import wait_until
from tests.features.monitoring.hosts import host
from tests.features.monitoring.running import ADDRESS, offering, prometheus

HOSTS = 36
AIM_S = 60.0
WITHIN_S = 10.0
PATIENCE_S = 180.0
SEED = 1
TIMER = Path(unit_sets.__file__).parent / "units" / "firstlight-host-metrics.timer"
SOUND = {
    "firstlight_cards": 8,
    "firstlight_cards_on_bus": 8,
    'firstlight_card_fabric_registered{card="0"}': 1,
    'firstlight_card_ecc_uncorrected_errors_total{card="0"}': 0,
    'node_filesystem_avail_bytes{mountpoint="/",fstype="ext4"}': 50,
    'node_filesystem_size_bytes{mountpoint="/",fstype="ext4"}': 100,
    'node_filesystem_readonly{mountpoint="/",fstype="ext4"}': 0,
}
FAULTS = {
    "CardLost": ("firstlight_cards", 7),
    "FabricLost": ('firstlight_card_fabric_registered{card="0"}', 0),
    "EccErrorsGrow": ('firstlight_card_ecc_uncorrected_errors_total{card="0"}', 1),
    "DiskFull": ('node_filesystem_avail_bytes{mountpoint="/",fstype="ext4"}', 4),
}
"""Metric and value of each fault that a metric of the host shows."""
OUT = "VllmOut"
READ_AT_ONCE = (OUT, "DiskFull")
"""Alerts whose metrics no timer writes."""


@dataclass
class StubHost:
    """A host of this machine: the metrics of its node exporter and of its vLLM."""

    name: str
    values: dict[str, float] = field(default_factory=lambda: dict(SOUND))
    node: dict[str, str] = field(default_factory=dict)
    vllm: dict[str, str] = field(default_factory=lambda: {"/metrics": "vllm:num_requests_running 0\n"})

    def offer(self) -> None:
        """Offer its values from now on."""
        self.node["/metrics"] = "".join(f"{name} {value}\n" for name, value in self.values.items())

    def break_down(self) -> None:
        """Get all faults at once."""
        self.values.update(FAULTS.values())
        self.offer()
        self.vllm.clear()


class Receiver(ThreadingHTTPServer):
    """Takes what Prometheus sends to Alertmanager."""

    def __init__(self) -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.firing: set[tuple[str, str]] = set()
        """Name and host of the alerts that fire now."""

    def take(self, sent: list[dict[str, Any]]) -> None:
        """Take alerts; one that is over has ended in the past."""
        now = datetime.now(UTC)
        for alert in sent:
            name = alert["labels"]["alertname"], alert["labels"]["host"]
            is_over = datetime.fromisoformat(alert["endsAt"]) <= now
            self.firing = self.firing - {name} if is_over else self.firing | {name}


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        self.server.take(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()


@dataclass(frozen=True)
class Site:
    """What runs."""

    hosts: list[StubHost]
    receiver: Receiver


@contextmanager
def running(folder: Path) -> Iterator[Site]:
    """Run Prometheus, a receiver of its alerts and stub hosts; all of it is removed at the end."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(receiver.shutdown)
        port = receiver.server_address[1]
        monitor = host("mon", "monitoring", address=ADDRESS, monitoring_bind=ADDRESS, alertmanager_port=port)
        hosts = [StubHost(f"gpu-{number}") for number in range(HOSTS)]
        targets = []
        for one in hosts:
            one.offer()
            targets.append(Target("node", one.name, stack.enter_context(offering(one.node))))
            targets.append(Target("vllm", one.name, stack.enter_context(offering(one.vllm))))
        server = stack.enter_context(prometheus(folder, unit_sets.server_set(monitor, targets, str(folder)).files))
        wait_until(lambda: len(server.query("up == 1")) == len(targets), "not every target is read")
        yield Site(hosts, receiver)


def play(site: Site, draw: random.Random) -> dict[str, list[float]]:
    """Let each host break down at a moment of its own; return the seconds to each alert."""
    wanted = {(alert, one.name) for alert in (*FAULTS, OUT) for one in site.hosts}
    began, broken = time.monotonic(), {}
    moments = sorted(((draw.uniform(0, WITHIN_S), one) for one in site.hosts), key=lambda pair: pair[0])
    found: dict[str, list[float]] = defaultdict(list)
    while wanted and time.monotonic() - began < PATIENCE_S:
        while moments and time.monotonic() - began >= moments[0][0]:
            _, one = moments.pop(0)
            one.break_down()
            broken[one.name] = time.monotonic()
        for alert, name in wanted & site.receiver.firing:
            found[alert].append(time.monotonic() - broken[name])
            wanted.remove((alert, name))
        time.sleep(0.2)
    for alert, _ in wanted:
        found[alert].append(float("inf"))
    return found


def timer_s() -> float:
    """Return the seconds between two looks of a host at its cards."""
    return float(re.findall(r"OnUnitInactiveSec=(\d+)", TIMER.read_text(encoding="utf-8"))[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    result = header("alerts")
    with tempfile.TemporaryDirectory() as name, running(Path(name)) as site:
        found = play(site, random.Random(SEED))
    result["alerts"] = {alert: _row(alert, times) for alert, times in sorted(found.items())}
    met = all(row["at_most_s"] <= AIM_S for row in result["alerts"].values())
    result["aim"] = {"at_most_s": AIM_S, "met": met}
    publish(result, "alerts", always=True)
    return 0 if met else 1


def _row(alert: str, times: list[float]) -> dict[str, Any]:
    timer = 0.0 if alert in READ_AT_ONCE else timer_s()
    return {
        "faults": len(times),
        "median_s": round(quantile(sorted(times), 0.5), 1),
        "longest_s": round(max(times), 1),
        "timer_s": timer,
        "at_most_s": round(max(times) + timer, 1),
    }


if __name__ == "__main__":
    sys.exit(main())
