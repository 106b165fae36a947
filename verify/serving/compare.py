"""The service measured with one choice and with another, side by side, judged by targets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verify.isolate import run_one
from verify.serving import bench
from verify.serving.service import Service
from verify.serving.usage import peak
from verify.serving.variant import Command, VariantError, served, with_backend, with_mode
from verify.tables import table

LOAD_S = 600.0
GIB = 1 << 30


@dataclass(frozen=True)
class Choice:
    """One column of the table: `backend` or `mode`, and which."""

    kind: str
    value: str

    def apply(self, command: Command) -> Command:
        """The service's command with this choice. Raises VariantError."""
        return (with_backend if self.kind == "backend" else with_mode)(command, self.value)


@dataclass(frozen=True)
class Row:
    """One measure before and after. `change` is the share by which it changed; null where there was nothing before."""

    name: str
    title: str
    unit: str
    before: float
    after: float
    change: float | None
    target: str
    met: bool | None

    def as_json(self) -> dict[str, Any]:
        return dict(vars(self))


def measure(service: Service, command: Command, *, label: str) -> dict[str, Any]:
    """The measures of one choice's command, by name, with `used`: the back ends that its layers hold.

    Raises VariantError, which begins with the label, where it does not start or cannot be asked.
    """
    try:
        return _measure(service, command)
    except VariantError as error:
        raise VariantError(f"{label}: {error}") from None


def _measure(service: Service, command: Command) -> dict[str, Any]:
    load = table("serving")["load"]
    with served(service, command) as server:
        used = backends(server)
        before = server.cpu_seconds()
        with peak(server) as most:
            ending = run_one(lambda: list(bench.measure(server, load)), deadline_s=LOAD_S)
        if ending.problem:
            raise VariantError(f"its load could not be measured: {ending.problem}")
        return {"used": used, **figures(ending.value, server.cpu_seconds() - before, most[0].total)}


def figures(results: Sequence[Mapping[str, Any]], cpu_s: float, memory: int) -> dict[str, float]:
    """The measures from the tool's results; speeds are those of the largest concurrency that was reached."""
    last = results[-1]
    asked = sum(result["num_prompts"] for result in results)
    tokens = sum(result["total_output_tokens"] for result in results)
    return {
        "at_once": last["max_concurrency"],
        "first_token": last["p50_ttft_ms"],
        "p99": last["p99_e2el_ms"],
        "output": last["output_throughput"],
        "memory": memory / GIB,
        "cpu": 1000 * cpu_s / tokens if tokens else float("inf"),
        "failed": (asked - sum(result["completed"] for result in results)) / asked,
    }


def backends(server: Service) -> list[str]:
    """Which back ends the attention layers of a server hold, by the notes of the plugin inside it."""
    held = set()
    for path in (server.prefix / "run").glob("attention-*.json"):
        try:
            notes = json.loads(Path(path).read_text())
        except (OSError, ValueError):
            continue
        if notes.get("pid") in server.pids():
            held |= {str(layer["backend"]) for layer in notes["layers"]}
    return sorted(held)


def side_by_side(
    before: Mapping[str, Any], after: Mapping[str, Any], targets: Mapping[str, float] | None = None
) -> list[Row]:
    """A row a measure. `targets` are the user's, as shares of change; a bound of the table holds else."""
    return [_row(measure, before, after, targets or {}) for measure in table("compare")["measure"]]


def _row(
    measure: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any], targets: Mapping[str, float]
) -> Row:
    name, was, now = measure["name"], float(before[measure["name"]]), float(after[measure["name"]])
    change = round(now / was - 1, 9) if was else None  # 140 is 40 % more than 100, floats or not
    absolute, least = bool(measure.get("absolute")), "floor" in measure
    bound = targets.get(name, measure["floor" if least else "ceiling"])
    judged = now if absolute else change
    met = None if judged is None else (judged >= bound if least else judged <= bound)
    words = (
        f"at {'least' if least else 'most'} {bound:g}"
        if absolute
        else f"at {'least' if least else 'most'} {bound:+.0%}"
    )
    return Row(name, measure["title"], measure["unit"], was, now, change, words, met)
