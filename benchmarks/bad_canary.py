"""A release that fails 5 % of requests, rolled out behind a real gateway: seconds until all traffic, and all hosts, are back.

    .venv/bin/python -m benchmarks.bad_canary [--clients 12] [--trials 3] [--folder FOLDER]

Boots a gateway with Debian's HAProxy and two hosts that serve the built-in model with real vLLM on their processors. The bad release is a
real one too: its settings choose `lm-format-enforcer` for structured outputs, which takes no list of values of several types. It starts, passes
every check and answers as before. One in twenty requests of the clients asks for an answer by such a list: vLLM answers it with 500, and
the release of before as asked, which the requests before the canary's share show. FOLDER keeps inventory and runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.machine import header, publish
from benchmarks.peers import environment
from benchmarks.rollout import LOCK, STEPS, Sent, Site, provisioned, sending, versions
from provision.core.run_folder import RunFolder

FAILING = 0.05
"""Share of requests that the bad release fails."""
TOKENS, PAUSE_S = 4, 1.0
BAD = {"firstlight_vllm_args": ["--structured-outputs-config.backend", "lm-format-enforcer"]}
TRAFFIC_S, HOSTS_S = 30.0, 300.0


def take_back(site: Site, python: Path, clients: int) -> dict[str, Any]:
    """Roll out the bad release under load; return how it went."""
    load = site.load(clients) | {"tokens": TOKENS, "pause_s": PAUSE_S, "schema_share": FAILING}
    inventory = site.inventory(**BAD)
    with sending(python, load) as sent:
        done = site.command("rollout", "-i", inventory, "--steps", STEPS, "--json")
        ended = time.time()
    record = json.loads(done.out)
    decided = [f"{one['verdict']}: {one['text']}" for one in record["decisions"]]
    return {"state": record["state"], "gates": decided, **sent.as_json()} | _times(site, sent, record, ended)


def _times(site: Site, sent: Sent, record: dict[str, Any], ended: float) -> dict[str, Any]:
    """Return the seconds since the new release got requests of clients; nothing where no share was taken from it."""
    shares = list(_shares(site.command.logs, record["name"]))
    given = next(at for at, percent in shares if percent)
    taken = next((at for at, percent in shares if at > given and not percent), None)
    if taken is None or record["state"] != "rolled back":
        return {}
    during = [row for row in sent.rows if given <= row["at"] <= taken]
    failed = [row["at"] for row in sent.rows if row["result"] != "ok"]
    return {
        "requests_per_s": round(len(during) / (taken - given), 1),
        "schema_requests_before": sum(row["kind"] == "schema" and row["at"] < given for row in sent.rows),
        "failed_before": sum(at < given for at in failed),
        "first_failure_s": round(min(failed) - given, 1),
        "last_failure_s": round(max(failed) - given, 1),
        "traffic_back_s": round(max(taken, *failed) - given, 1),
        "hosts_back_s": round(ended - given, 1),
    }


def _shares(logs: Path, first: str) -> Iterator[tuple[float, float]]:
    """Yield the canaries' percentage of requests as gateways confirmed it, with the time, since a run."""
    for folder in sorted(path for path in logs.iterdir() if path.is_dir() and not path.is_symlink()):
        if folder.name >= first and (folder / "events.jsonl").exists():
            for event in RunFolder(folder).events():
                if event["kind"] == "canary":
                    yield datetime.fromisoformat(event["at"]).timestamp(), sum(event["shares"].values()) / 100


def measure(site: Site, python: Path, clients: int, trials: int) -> dict[str, Any]:
    """Roll out the bad release several times."""
    bad = [take_back(site, python, clients) for _ in range(trials)]
    aim: dict[str, Any] = {"traffic_back_s": TRAFFIC_S, "hosts_back_s": HOSTS_S, "failing_share": FAILING}
    met = not any(one.get("failed_before") for one in bad)
    slowest: dict[str, float] = {}
    for name in ("traffic_back_s", "hosts_back_s"):
        seconds = [one[name] for one in bad if name in one]
        met &= len(seconds) == trials and max(seconds) <= aim[name]
        slowest |= {name: max(seconds)} if seconds else {}
    return {"rollouts": bad, "slowest": slowest, "aim": {**aim, "met": met}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    python = environment(LOCK) / "python"
    result = header("bad_canary")
    with provisioned(given.folder) as site:
        result["versions"] |= versions(site, python)
        result |= {"hosts": len(site.hosts), "clients": given.clients, "steps": STEPS, "bad_release": BAD}
        result["real"] = (
            "vLLM, HAProxy, hosts with systemd, OpenAI's client, and the fault; the hosts share one machine"
        )
        result |= measure(site, python, given.clients, given.trials)
    publish(result, "bad-canary", always=True)
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
