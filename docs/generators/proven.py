"""The sets that were tried, for the plan: those of `benchmarks.sets` that load, and those that a host has served with."""

from __future__ import annotations

import json

from benchmarks.harness import RESULTS
from docs.generators.sets import measured_sets

TARGET = "provision/catalog/proven.toml"
SERVED = {"vllm-0.32.0-cpu-community": "Debian 12 and 13, on CPUs with AVX2 and with AVX512"}
HEAD = """# Written by ./firstlight docs from benchmarks/results and docs/generators/proven.py.
# Sets that were tried: a build of vLLM with its torch, as the plan names it. With `vllm: latest` they come before all others.
# how     loaded: locked, installed from the real wheels, every extension module loaded; served: on a host, up to a verified token
# on      what it was tried on
"""


def generate() -> str:
    """Return the table; the newest release first."""
    card = json.loads((RESULTS / "card-serving.json").read_text(encoding="utf-8"))
    on_cards = {
        f"vllm-{card['stack']['vllm']['version']}-{card['stack']['vllm']['variant']}": card["on"].partition(",")[0]
    }
    rows = [(name, "served", on, "tests/fleet/test_provision.py") for name, on in SERVED.items()]
    for measured in measured_sets():
        name = str(measured["set"])
        if name in on_cards:
            rows.append((name, "served", on_cards[name], "benchmarks/results/card-serving.json"))
        elif measured["ok"]:
            rows.append((name, "loaded", "a machine without a GPU", "benchmarks/results/sets.json"))
    return HEAD + "".join(
        f'\n[[proven]]\nset = "{name}"\nmachine = "x86_64"\nhow = "{how}"\non = "{on}"\nsource = "{source}"\n'
        for name, how, on, source in rows
    )
