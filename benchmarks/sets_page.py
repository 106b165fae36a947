"""Writes what `benchmarks.sets` found as tables: the sets that hold by torch into README.md, every set into docs/reference/sets.md.

.venv/bin/python -m benchmarks.sets_page
"""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.machine import GIB, RESULTS, ROOT

Row = dict[str, Any]

README, PAGE = ROOT / "README.md", ROOT / "docs/reference/sets.md"


def rows() -> list[Row]:
    """Every set of the result, the newest release first."""
    found: list[Row] = json.loads((RESULTS / "sets.json").read_text(encoding="utf-8"))["sets"]
    return found


def whole(found: list[Row]) -> str:
    """A line a set."""
    head = ("vLLM", "torch", "Python", "dependencies until", "found", "GiB", "distributions", "extensions", "seconds")
    lines = [_line(head), _line(["---"] * len(head))]
    lines += [_line(_cells(row)) for row in found]
    return "\n".join(lines)


def short(found: list[Row]) -> str:
    """A line for each torch that sets hold with."""
    held = [row for row in found if row["ok"]]
    lines = [_line(("torch", "vLLM", "transformers")), _line(["---"] * 3)]
    for torch, group in groupby(held, key=lambda row: f"{row['torch']} ({_torch_variant(row)})"):
        same = list(group)
        versions = [row["versions"].get("transformers", "") for row in same]
        transformers = " to ".join(dict.fromkeys((versions[-1], versions[0])))
        lines.append(_line((torch, ", ".join(f"{row['vllm']} {row['variant']}" for row in same), transformers)))
    return "\n".join(lines)


def replaced(text: str, name: str, table: str) -> str:
    """The page's text with the table in its place. Raises ValueError where the page has no such place."""
    pattern = rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)"
    written, count = re.subn(pattern, lambda found: f"{found[1]}{table}\n{found[2]}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{count} places for `{name}`")
    return written


def pages(found: list[Row]) -> dict[Path, str]:
    """The text of both pages as it is to be."""
    tables = {README: ("known-good sets", short(found)), PAGE: ("sets", whole(found))}
    return {path: replaced(path.read_text(encoding="utf-8"), *table) for path, table in tables.items()}


def _torch_variant(row: Row) -> str:
    """Of torch, which a set may name beside vLLM's: `vllm-0.9.1-cu128-torch-cu126`."""
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
    ]


def _line(cells: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    for path, text in pages(rows()).items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
