"""Cold start: one bare CPU host to its first correct token, by the product and by hand, in the same run.

    .venv/bin/python -m benchmarks.cold [--pairs 3]

For each pair two identical bare test hosts that reach the package registries are booted, one after the other; which side goes first
alternates. Both start without caches: the page cache is dropped, and

    product   `./firstlight provision` on this machine, over SSH, with an empty cache of its own and an empty cache of uv
    by hand   benchmarks/cold_by_hand.sh on the host: apt, uv pip compile and sync, model, vllm serve, transformers' reference

are timed until 32 tokens were compared with the reference and equal. That both install the same distributions and serve with the
same flags is checked; otherwise there is no result. `verify`, which nobody does by hand, is separate: `ratio` excludes its seconds,
and `ratio_with_verify` includes them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import statistics
import sys
import tempfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from uv import find_uv_bin

from benchmarks.fleet import hosts_to_boot
from benchmarks.harness import ROOT, figures, header, parser, publish, say, timed
from requirements.pip_settings import variables
from tests.fleet.hosts import Fleet, FleetHost

SCRIPT = ROOT / "benchmarks" / "cold_by_hand.sh"
MODEL_MAKER = ROOT / "provision" / "phases" / "serve" / "onhost" / "builtin_model.py"
AIM_RATIO = 1.15
OWN_DISTRIBUTIONS = {"firstlight-attention", "vllm"}
"""Wheels of ours in the lock: the proof of the attention in use, and metadata that is made with two lines by hand."""
OWN_MODULE = r"firstlight_attention\."


def drop_page_cache() -> None:
    """Drop the page cache, because a newly booted host has read nothing."""
    timed(["sync"])
    Path("/proc/sys/vm/drop_caches").write_text("3", encoding="ascii")


def product_phases(events: list[dict[str, Any]], *, started: float, total: float) -> dict[str, float]:
    """Return the seconds of each phase of one run on one host, from the events of the run.

    Args:
        events: The lines of events.jsonl.
        started: The start of the process, in seconds since the epoch.
        total: The seconds of the whole process.
    """
    phases: dict[str, float] = {}
    for event in events:
        if event["kind"] == "phase":
            phases[event["phase"]] = phases.get(event["phase"], 0.0) + event["seconds"]
    answered = next(event for event in events if event["kind"] == "result" and event["phase"] == "serve")
    return {
        "first_correct_token": datetime.fromisoformat(answered["at"]).timestamp() - started,
        **phases,
        "process_start_and_end": total - sum(phases.values()),
        "whole_process": total,
    }


def hand_phases(output: str) -> dict[str, float]:
    """Return the seconds of each phase from the script's marks; `reference` runs while the server starts and is a part of `serve`.

    Raises ValueError when a mark is missing.
    """
    at = {name: float(when) for name, when in re.findall(r"^@@ (\S+) ([\d.]+)$", output, re.MULTILINE)}
    order = ["os_packages", "lock", "environment", "model", "serve", "answer", "end"]
    missing = [name for name in [*order, "reference_done"] if name not in at]
    if missing:
        raise ValueError(f"the script ended before {missing[0]}")
    phases = {name: at[after] - at[name] for name, after in pairwise(order)}
    return {
        "first_correct_token": at["end"] - at["os_packages"],
        **phases,
        "serve.reference_beside_it": at["reference_done"] - at["serve"],
    }


def serve_flags(text: str) -> list[str]:
    """Return the words after the model's folder in the first `vllm serve` of a script or a unit, without our own middleware."""
    joined = text.replace("\\\n", " ")
    line = next(line for line in joined.splitlines() if re.search(r"\bvllm serve\b", line) and not line.startswith("#"))
    flags = re.sub(rf" --middleware {OWN_MODULE}\S*", "", line.partition("vllm serve")[2].partition(">")[0])
    return shlex.split(flags)[1:]


def locked(text: str) -> set[str]:
    """Return name==version of each distribution in a requirements file, without ours."""
    found = re.findall(r"^([\w.-]+)==([^\s\\;]+)", text, re.MULTILINE)
    return {f"{name}=={version}" for name, version in found if name not in OWN_DISTRIBUTIONS}


def same_work(product: dict[str, Any], hand_lock: str) -> None:
    """Check that both sides did the same. Ends the program with the difference if they did not."""
    flags, by_hand = serve_flags(product["firstlight_service"]["unit"]), serve_flags(SCRIPT.read_text(encoding="utf-8"))
    if flags != by_hand:
        sys.exit(f"error: the product serves with {flags}, the script with {by_hand}")
    difference = locked(product["firstlight_environment"]["lock"]) ^ locked(hand_lock)
    if difference:
        sys.exit(f"error: the two sides installed other distributions: {', '.join(sorted(difference))}")
    packages = product["firstlight_system_packages"]
    if f"install {' '.join(packages)}\n" not in SCRIPT.read_text(encoding="utf-8"):
        sys.exit(f"error: the product installs {packages}, the script something else")


def by_product(host: FleetHost, scratch: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Run the product once; return its phases and its plan for the host."""
    logs = scratch / "logs"
    inventory = host.inventory(scratch / "inventory")
    environment = {
        "FIRSTLIGHT_LOGS": str(logs),
        "FIRSTLIGHT_CACHE": str(scratch / "cache"),
        "UV_CACHE_DIR": str(scratch / "uv"),
        "TERM": "dumb",
    }
    drop_page_cache()
    done = timed([ROOT / "firstlight", "provision", "-i", inventory], environment=environment)
    if done.code:
        sys.exit(f"error: the product failed\n{done.tail(6000)}")
    run = (logs / "latest").resolve()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    planned = yaml.safe_load((run / "install" / "hosts.yml").read_text(encoding="utf-8"))["all"]["hosts"][host.name]
    return product_phases(events, started=done.started, total=done.seconds), planned


def by_hand(host: FleetHost, _: Path) -> tuple[dict[str, float], str]:
    """Run the script once; return its phases and the lock that it solved."""
    (host.machine.root / "opt/vllm").mkdir()
    for source, folder in ((Path(find_uv_bin()), "usr/local/bin"), (MODEL_MAKER, "opt/vllm")):
        shutil.copy(source, host.machine.root / folder)
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables().items())
    options = ["-F", "none", "-o", f"UserKnownHostsFile={host.known_hosts}", "-o", "IdentitiesOnly=yes"]
    ssh = ["ssh", *options, "-i", str(host.key_file), f"root@{host.address}"]
    drop_page_cache()
    done = timed([*ssh, "sh -s"], stdin=exports + SCRIPT.read_text(encoding="utf-8"))
    if done.code:
        sys.exit(f"error: the steps by hand failed\n{done.tail(6000)}")
    return hand_phases(done.out), host.sh("cat /opt/vllm/lock.txt")


def one_pair(fleet: Fleet, *, product_first: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Run both sides, each on its own host, which is removed before the next one is booted."""
    found: dict[str, tuple[dict[str, float], Any]] = {}
    for side in (by_product, by_hand) if product_first else (by_hand, by_product):
        [host] = fleet.boot(1, online=True)
        with tempfile.TemporaryDirectory(prefix="firstlight-") as scratch:
            found[side.__name__] = phases, _ = side(host, Path(scratch))
        say(f"{side.__name__}: {phases['first_correct_token']:.1f} s")
        host.remove()
    (product, planned), (hand, lock) = found["by_product"], found["by_hand"]
    same_work(planned, lock)
    return product, hand


def compared(pairs: list[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Return each phase of both sides, and the ratio of each pair."""
    with_verify = [ours["first_correct_token"] / theirs["first_correct_token"] for ours, theirs in pairs]
    without = [(ours["first_correct_token"] - ours["verify"]) / theirs["first_correct_token"] for ours, theirs in pairs]
    return {
        "product": {phase: figures([ours[phase] for ours, _ in pairs]) for phase in pairs[0][0]},
        "by_hand": {phase: figures([theirs[phase] for _, theirs in pairs]) for phase in pairs[0][1]},
        "ratio": round(statistics.median(without), 3),
        "ratio_with_verify": round(statistics.median(with_verify), 3),
        "ratios": [round(ratio, 3) for ratio in without],
        "ratios_with_verify": [round(ratio, 3) for ratio in with_verify],
    }


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=3)
    count = options.parse_args().pairs
    result = header("cold", ("uv", "ansible-core", "fabric"))
    with hosts_to_boot() as fleet:
        pairs = [one_pair(fleet, product_first=number % 2 == 0) for number in range(count)]
    result |= {"pairs": count, **compared(pairs)}
    result["aim"] = {"ratio": AIM_RATIO, "met": result["ratio"] <= AIM_RATIO}
    publish(result, "cold")
    return 0 if result["aim"]["met"] else 1


if __name__ == "__main__":
    sys.exit(main())
