"""AMD GPUs as amd-smi reports them: memory errors, throttling, and links."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from verify.host.views import Gpu, pci_address

LIST = ("amd-smi", "list", "--json")
ERRORS = ("amd-smi", "metric", "--ecc", "--json")
METRICS = ("amd-smi", "metric", "--json")
"""Releases have different options for throttling; without an option all of them report it."""
TOPOLOGY = ("amd-smi", "topology", "--json")
LIMIT_S = 30.0
VIOLATION = "_violation_status"

Row = TypeVar("Row")


@dataclass(frozen=True)
class EccErrors:
    """Errors of a GPU's memories and caches since the driver was loaded; None if unknown."""

    gpu: int
    corrected: int | None
    uncorrected: int | None
    deferred: int | None
    """Wrong data that has not been read yet; reading it is an uncorrected error."""


@dataclass(frozen=True)
class Limits:
    """Active throttling reasons of a GPU, by amd-smi's names; empty if unknown."""

    gpu: int
    active: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """Throttling, temperature and power of a GPU; None if unknown."""

    limits: Limits
    temperature_c: float | None
    """Of its hottest part, else at its edge."""
    power_w: float | None

    @property
    def gpu(self) -> int:
        """Number of the GPU."""
        return self.limits.gpu


@dataclass(frozen=True)
class GpuLink:
    """Connection between two GPUs: `XGMI`, `PCIE`, or amd-smi's name for another one."""

    gpu: int
    other: int
    kind: str


class AmdSmiError(Exception):
    """amd-smi failed, or its answer has an unknown form."""


def gpus() -> tuple[Gpu, ...] | None:
    """Return the GPUs in amd-smi's order; None if it is not installed. Raises AmdSmiError."""
    return _ask(LIST, parse_gpus)


def errors() -> tuple[EccErrors, ...] | None:
    """Return the memory errors in amd-smi's order; None if it is not installed. Raises AmdSmiError."""
    return _ask(ERRORS, parse_errors)


def limits() -> tuple[Limits, ...] | None:
    """Return the throttling reasons in amd-smi's order; None if it is not installed. Raises AmdSmiError."""
    return _ask(METRICS, parse_limits)


def metrics() -> tuple[Metrics, ...] | None:
    """Return throttling, temperature and power in amd-smi's order; None if it is not installed. Raises AmdSmiError."""
    return _ask(METRICS, parse_metrics)


def gpu_links() -> tuple[GpuLink, ...] | None:
    """Return the link of each ordered pair of GPUs; None if amd-smi is not installed. Raises AmdSmiError."""
    return _ask(TOPOLOGY, parse_gpu_links)


def parse_gpus(answer: str) -> tuple[Gpu, ...]:
    """Parse `amd-smi list`; its UUID is not torch's. Raises AmdSmiError."""
    return _each(answer, lambda row: Gpu(pci=pci_address(row["bdf"])))


def parse_errors(answer: str) -> tuple[EccErrors, ...]:
    """Parse `amd-smi metric --ecc`. Raises AmdSmiError."""
    return _each(
        answer,
        lambda row: EccErrors(
            gpu=int(row["gpu"]),
            corrected=_count(row["ecc"], "correctable"),
            uncorrected=_count(row["ecc"], "uncorrectable"),
            deferred=_count(row["ecc"], "deferred"),
        ),
    )


def parse_limits(answer: str) -> tuple[Limits, ...]:
    """Parse `amd-smi metric`. Cards before the MI300 report one status for all reasons. Raises AmdSmiError."""
    return _each(answer, lambda row: Limits(int(row["gpu"]), _violations(row) or _throttled(row)))


def parse_metrics(answer: str) -> tuple[Metrics, ...]:
    """Parse `amd-smi metric` with temperature and power. Raises AmdSmiError."""
    return _each(
        answer,
        lambda row: Metrics(
            limits=Limits(int(row["gpu"]), _violations(row) or _throttled(row)),
            temperature_c=_first(row.get("temperature"), "hotspot", "edge"),
            power_w=_first(row.get("power"), "socket_power", "average_socket_power"),
        ),
    )


def parse_gpu_links(answer: str) -> tuple[GpuLink, ...]:
    """Parse `amd-smi topology`. Raises AmdSmiError."""
    rows = _each(
        answer,
        lambda row: [GpuLink(int(row["gpu"]), int(link["gpu"]), str(link["link_type"])) for link in row["links"]],
    )
    return tuple(link for row in rows for link in row if link.gpu != link.other)


def _ask(command: tuple[str, ...], parse: Callable[[str], tuple[Row, ...]]) -> tuple[Row, ...] | None:
    if not shutil.which(command[0]):
        return None
    details = " ".join(command)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise AmdSmiError(f"`{details}` did not end within {LIMIT_S:g} s") from None
    if done.returncode != 0:
        raise AmdSmiError(f"`{details}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return parse(done.stdout)


def _each(answer: str, read: Callable[[Any], Row]) -> tuple[Row, ...]:
    """Read the JSON of ROCm 6 (a list of GPUs) or 7 (the list under one key). Raises AmdSmiError."""
    try:
        document = json.loads(answer)
        rows = next(iter(document.values())) if isinstance(document, dict) else document
        return tuple(read(row) for row in rows)
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise AmdSmiError(f"its answer is not in a known form: {type(error).__name__}: {error}") from None


def _count(row: Any, kind: str) -> int | None:
    """Return a count; cards that do not count report `N/A`, for one number or for all."""
    value = None if row == "N/A" else row[f"total_{kind}_count"]
    return value if isinstance(value, int) else None


def _first(details: Any, *keys: str) -> float | None:
    """Return the first number of an object: a value with its unit, or in older releases the value alone."""
    for key in keys if isinstance(details, dict) else ():
        value = details.get(key)
        value = value.get("value") if isinstance(value, dict) else value
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _violations(row: Any) -> dict[str, bool]:
    details = row.get("throttle")
    known = details.items() if isinstance(details, dict) else ()
    return {
        key.removesuffix(VIOLATION): value == "ACTIVE"
        for key, value in known
        if key.endswith(VIOLATION) and value in ("ACTIVE", "NOT ACTIVE")  # others are partitions of a card
    }


def _throttled(row: Any) -> dict[str, bool]:
    power = row.get("power")
    word = power.get("throttle_status") if isinstance(power, dict) else None
    return {"throttled": word == "THROTTLED"} if word in ("THROTTLED", "UNTHROTTLED") else {}
