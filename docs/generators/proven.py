"""The sets that were tried, for the plan: those of `benchmarks.sets` and `benchmarks.arm` that load, and those that a host has served with."""

from __future__ import annotations

import json

from benchmarks.harness import RESULTS
from docs.generators.sets import measured_sets

TARGET = "provision/catalog/proven.toml"
ON_CARDS = ("card-serving", "card-h200")
"""Results of hosts with GPUs whose service gave checked answers, the earliest first."""
SERVED = {"vllm-0.32.0-cpu-community": "Debian 12 and 13, on CPUs with AVX2 and with AVX512"}
HEAD = """# Written by ./firstlight docs from benchmarks/results and docs/generators/proven.py.
# Sets that were tried: a build of vLLM with its torch, as the plan names it. With `vllm: latest` they come before all others.
# how     loaded: locked, installed from the real wheels, every extension module loaded; served: on a host, up to a verified token
# on      what it was tried on
"""


def generate() -> str:
    """Return the table; the newest release first."""
    on_cards: dict[str, list[tuple[str, str]]] = {}
    for result in ON_CARDS:
        card = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))
        name = f"vllm-{card['stack']['vllm']['version']}-{card['stack']['vllm']['variant']}"
        on_cards.setdefault(name, []).append((card["on"].partition(",")[0], f"benchmarks/results/{result}.json"))
    rows = [(name, "served", on, "tests/fleet/test_provision.py") for name, on in SERVED.items()]
    for measured in measured_sets():
        name = str(measured["set"])
        if name in on_cards:
            cards, sources = zip(*on_cards[name], strict=True)
            rows.append((name, "served", " and ".join(cards), ", ".join(sources)))
        elif measured["ok"]:
            rows.append((name, "loaded", "a machine without a GPU", "benchmarks/results/sets.json"))
    arm = [
        (name, "loaded", "an emulated Arm host without a GPU", "benchmarks/results/arm.json")
        for name in loaded_on_arm()
    ]
    return HEAD + "".join(
        f'\n[[proven]]\nset = "{name}"\nmachine = "{machine}"\nhow = "{how}"\non = "{on}"\nsource = "{source}"\n'
        for machine, found in (("x86_64", rows), ("aarch64", arm))
        for name, how, on, source in found
    )


def loaded_on_arm() -> list[str]:
    """Return the sets of CUDA builds that were installed on an emulated Arm host, and of which every extension was loaded there."""
    steps = json.loads((RESULTS / "arm.json").read_text(encoding="utf-8"))["scenarios"].get("gh200", [])
    is_loaded = any(step.get("loaded") for step in steps)
    return sorted({f"vllm-{step['vllm'].replace(' ', '-')}" for step in steps if is_loaded and step.get("vllm")})
