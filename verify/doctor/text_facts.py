"""Facts extracted from a text: what collect_env, nvidia-smi, pip, nvcc and uname print.

They have the paths of the probe's facts (docs/reference/facts.md). In addition there are `packages.NAME` (the version
of a distribution) and `environment.NAME` (a variable).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from verify.doctor.scanner import Hit
from verify.doctor.search_patterns import SearchPattern
from verify.tables import table

LIST_LIMIT = 32


@cache
def _extractors() -> tuple[tuple[str, str], ...]:
    """Return path and pattern of each fact, those of packages last."""
    packages = table("log_facts")["packages"]
    return (
        *((row["path"], row["pattern"]) for row in table("log_facts")["fact"]),
        *((f"packages.{name}", packages["pattern"].replace("{name}", name)) for name in packages["names"]),
    )


def fact_patterns() -> tuple[SearchPattern, ...]:
    """Return the patterns of lines that hold a fact."""
    return tuple(
        SearchPattern(pattern, limit=LIST_LIMIT if "[]" in path or path == "environment" else 1)
        for path, pattern in _extractors()
    )


def extract_facts(hits: Sequence[Sequence[Hit]]) -> dict[str, Any]:
    """Return the facts in the hits of `fact_patterns`; the first line with a fact wins."""
    found: dict[str, Any] = {}
    for (path, pattern), lines in zip(_extractors(), hits, strict=True):
        for hit in lines:
            match = re.search(pattern, hit.text)
            if match:
                _store(found, path, match)
    return found


def _store(found: dict[str, Any], path: str, match: re.Match[str]) -> None:
    value: Any = match[1].strip()
    if path == "environment":
        found.setdefault(path, {}).setdefault(match[1], match[2])
    elif path == "wsl":
        found["wsl"] = True
    elif path.startswith("packages.") and path != "packages.torch_cuda":
        name = re.split(r"[=\s:]", re.sub(r"^\[\w+\] ", "", match[0]), maxsplit=1)[0].lower().replace("_", "-")
        found.setdefault("packages", {}).setdefault("torch" if name == "pytorch" else name, value)
    elif "[]." in path:
        group, _, rest = path.partition("[].")
        *outer, last = group.split(".")
        _nested(found, outer).setdefault(last, []).append({rest: value})
    else:
        *outer, last = path.split(".")
        _nested(found, outer).setdefault(last, value)


def _nested(found: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    for key in keys:
        found = found.setdefault(key, {})
    return found
