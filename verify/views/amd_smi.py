"""AMD GPUs' counts of memory errors, as amd-smi tells them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

COMMAND = ("amd-smi", "metric", "--ecc", "--json")
LIMIT_S = 30.0


@dataclass(frozen=True)
class Errors:
    """Of one GPU's memories and caches since the driver was loaded; null where this card or amd-smi does not say."""

    gpu: int
    corrected: int | None
    uncorrected: int | None
    deferred: int | None
    """Wrong, and not read yet: who reads it meets an uncorrected error."""


class AmdSmiError(Exception):
    """amd-smi did not answer as it does; the text says how."""


def errors() -> tuple[Errors, ...] | None:
    """By amd-smi's numbers; null where it is not installed. Raises AmdSmiError."""
    if not shutil.which(COMMAND[0]):
        return None
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise AmdSmiError(f"`{' '.join(COMMAND)}` did not end within {LIMIT_S:g} s") from None
    if done.returncode != 0:
        raise AmdSmiError(f"`{' '.join(COMMAND)}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return parse(done.stdout)


def parse(answer: str) -> tuple[Errors, ...]:
    """The JSON of ROCm 6 (a list) or 7 (`gpu_data`). Raises AmdSmiError."""
    try:
        document = json.loads(answer)
        rows = document["gpu_data"] if isinstance(document, dict) else document
        return tuple(
            Errors(
                gpu=int(row["gpu"]),
                corrected=_count(row["ecc"], "correctable"),
                uncorrected=_count(row["ecc"], "uncorrectable"),
                deferred=_count(row["ecc"], "deferred"),
            )
            for row in rows
        )
    except (ValueError, KeyError, TypeError) as error:
        raise AmdSmiError(f"its answer has no counts of errors: {type(error).__name__}: {error}") from None


def _count(row: Any, kind: str) -> int | None:
    """`N/A` stands where a card does not count, for one number or for all."""
    value = None if row == "N/A" else row[f"total_{kind}_count"]
    return value if isinstance(value, int) else None
