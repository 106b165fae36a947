"""The table of measured sets in docs/reference/sets.md."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

from benchmarks.harness import GIB, RESULTS
from provision.catalog.rows.builds import Advisory
from provision.phases.plan.advisories import advisories_of, condition_of, is_critical, text_of

Row = dict[str, Any]

TARGET = "docs/reference/sets.md"
TABLE = "sets"


def generate() -> str:
    """Return the table: a row for each set."""
    head = (
        "vLLM", "torch", "Python", "dependencies until", "found", "GiB", "distributions", "extensions", "seconds", "advisories",
    )  # fmt: skip
    return "\n".join([_line(head), _line(["---"] * len(head)), *(_line(_cells(row)) for row in measured_sets())])


def measured_sets() -> list[Row]:
    """Return every set of `benchmarks.sets`, the newest release first."""
    found: list[Row] = json.loads((RESULTS / "sets.json").read_text(encoding="utf-8"))["sets"]
    return found


def known_good(sets: list[Row]) -> str:
    """Return a table with a row for each torch release of the sets that passed."""
    passed = [row for row in sets if row["ok"]]
    lines = [_line(("torch", "vLLM", "transformers", "advisories")), _line(["---"] * 4)]
    for torch, group in groupby(passed, key=lambda row: f"{row['torch']} ({_torch_variant(row)})"):
        same = list(group)
        versions = [row["versions"].get("transformers", "") for row in same]
        transformers = " to ".join(dict.fromkeys((versions[-1], versions[0])))
        releases = ", ".join(f"{row['vllm']} {row['variant']}" for row in same)
        lines.append(_line((torch, releases, transformers, _advisories([row["vllm"] for row in same]))))
    return "\n".join(lines)


def critical(version: str) -> list[Advisory]:
    """Return the advisories of CVSS 9 or more that may apply to a vLLM release."""
    found = advisories_of("vllm", version)
    return [row for row in found if is_critical(row) and row.needs != "unguarded-key"]


def _advisories(versions: list[str]) -> str:
    """Return the advisories of releases with their conditions, and with the releases if others of the row are not affected."""
    rows = {row: [version for version in versions if row in critical(version)] for v in versions for row in critical(v)}
    return "; ".join(
        f"{text_of(row)} if {condition_of(row)}{'' if affected == versions else ': ' + ', '.join(affected)}"
        for row, affected in rows.items()
    )


def _torch_variant(row: Row) -> str:
    """Return the variant of torch, which may differ from that of vLLM: `vllm-0.9.1-cu128-torch-cu126`."""
    return str(row["set"]).partition("-torch-")[2] or str(row["variant"])


def _cells(row: Row) -> list[str]:
    sizes = [f"{row[name] / GIB:.1f}" if row[name] else "" for name in ("wheels", "unpacked")]
    steps = [f"{row[name]:.0f}" if row[name] is not None else "" for name in ("lock_s", "install_s", "load_s")]
    return [
        f"{row['vllm']} {row['variant']}",
        f"{row['torch']} {_torch_variant(row)}",
        row["python"],
        row["until"] or "today",
        "ok" if row["ok"] else row["error"].replace("|", "\\|"),
        " / ".join(filter(None, sizes)),
        str(row["distributions"] or ""),
        str(row["extensions"] or ""),
        " / ".join(filter(None, steps)),
        ", ".join(advisory.id for advisory in critical(row["vllm"])),
    ]


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"
