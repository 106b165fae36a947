"""An engine that a signal stops, on one of two hosts behind a gateway: seconds until its watchdog restarts it, and until it is in traffic again.

    .venv/bin/python -m benchmarks.hang [--trials 3]

Boots a gateway with Debian's HAProxy and two hosts that serve the built-in model with real vLLM on their processors. A client asks all the
time. Nobody does anything but stop the engine. Aim: in traffic again within 60 s. How long vLLM starts is its own; the rest is the watchdog's.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import header, parser, publish
from benchmarks.rollout import Site, versions
from tests.fleet.gateway_client import Client, keys
from tests.fleet.hosts import FleetHost

AIM_S = 60.0
LIMIT_S = 600
UNIT = "firstlight-vllm.service"
NOW = "cut -d' ' -f1 /proc/uptime"
STARTED = f"systemctl show -P ExecMainStartTimestampMonotonic {UNIT}"


def is_in_traffic(site: Site, host: FleetHost) -> bool:
    """Return whether the gateway gives a host requests."""
    done = site.command("gateway", "status", "-i", site.inventory(), "--json")
    [gate] = json.loads(done.out)["gateways"]
    return ("up", host.name) in {(one["state"], one["host"]) for one in gate["hosts"]}


def trial(site: Site, client: Client) -> dict[str, Any]:
    """Stop the engine of the first host, and wait until it is in traffic again, while a client asks."""
    host, done, answers = site.hosts[0], threading.Event(), Counter[int]()

    def ask() -> None:
        while not done.wait(0.2):
            try:
                answers[client.chat("builtin-1", messages=[{"role": "user", "content": "a"}], max_tokens=4)[0]] += 1
            except OSError:
                answers[0] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        before, stopped = host.sh(f"{STARTED}; kill -STOP $(pgrep -f ^VLLM::EngineCore); {NOW}").split()
        host.sh(
            f"for _ in $(seq {LIMIT_S}); do test $({STARTED}) != {before} && exit 0; sleep 1; done; exit 1",
            timeout_s=LIMIT_S,
        )
        while not is_in_traffic(site, host):
            time.sleep(0.2)
        again = host.sh(NOW)
    finally:
        done.set()
        asking.join()
    restarted = int(host.sh(STARTED)) / 1e6 - float(stopped)
    total = float(again) - float(stopped)
    lost = sum(count for status, count in answers.items() if status != 200)
    return {"restarted_s": round(restarted, 1), "in_traffic_s": round(total, 1), "asked": answers.total(), "lost": lost}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--trials", type=int, default=3)
    given, result = options.parse_args(), header("hang")
    with tempfile.TemporaryDirectory() as scratch, hosts_to_boot() as fleet:
        [gateway] = fleet.boot(1, packages=("haproxy", "openssl"))
        site = Site(Path(scratch), gateway, fleet.boot(2))
        made = site.command("provision", "-i", site.inventory())
        if made.code:
            sys.exit(made.output())
        result["versions"] |= {name: one for name, one in versions(site).items() if name != "openai"}
        client = Client(gateway, keys(gateway)["default"])
        result["trials"] = [trial(site, client) for _ in range(given.trials)]
    for name in ("restarted_s", "in_traffic_s"):
        result[f"median_{name}"] = statistics.median(one[name] for one in result["trials"])
    result["aim"] = {"in_traffic_s": AIM_S, "met": max(one["in_traffic_s"] for one in result["trials"]) <= AIM_S}
    publish(result, "hang", always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
