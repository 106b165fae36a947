"""AMD GPUs as amd-smi reports them: memory errors, throttling, temperature, power, and links."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from verify.host.views import Gpu, pci_address
from verify.host.views.nvml import Health

LIMIT_S = 30.0
ROCM_BIN = "/opt/rocm/bin"
"""Where ROCm's packages put amd-smi; not all of them add the folder to PATH (ROCm's installation guide, post-installation instructions)."""
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
    blocks: Mapping[str, int] = field(default_factory=dict)
    """Uncorrected errors by the block that had them, by amd-smi's names (`UMC` is the memory); without blocks that had none."""


@dataclass(frozen=True)
class BadPages:
    """Number of memory pages of a GPU that its driver does not use any more, or should not; None if unknown."""

    gpu: int
    retired: int | None
    pending: int | None
    """Retired when the driver is loaded again."""
    unreservable: int | None
    """In use, so they could not be retired."""


@dataclass(frozen=True)
class GpuLink:
    """Connection between two GPUs: `XGMI`, `PCIE`, or amd-smi's name for another one."""

    gpu: int
    other: int
    kind: str


class AmdSmiError(Exception):
    """amd-smi failed, or its answer has an unknown form."""


@dataclass(frozen=True)
class Query(Generic[Row]):
    """A command of amd-smi, and what one GPU's part of its answer means."""

    options: tuple[str, ...]
    read: Callable[[Any], Iterable[Row]]

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command."""
        return ("amd-smi", *self.options, "--json")

    def ask(self) -> tuple[Row, ...] | None:
        """Return the answer in amd-smi's order; None if it is not installed. Raises AmdSmiError."""
        name, *options = self.command
        program = shutil.which(name) or shutil.which(name, path=ROCM_BIN)
        if program is None:
            return None
        text = " ".join(self.command)
        try:
            done = subprocess.run(
                (program, *options), capture_output=True, text=True, errors="replace", check=False, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            raise AmdSmiError(f"`{text}` did not end within {LIMIT_S:g} s") from None
        if done.returncode != 0:
            raise AmdSmiError(f"`{text}` ended with {done.returncode}: {done.stderr.strip()[-400:]}")
        return self.parse(done.stdout)

    def parse(self, answer: str) -> tuple[Row, ...]:
        """Parse the JSON of ROCm 6 (a list of GPUs) or 7 (the list under one key). Raises AmdSmiError."""
        try:
            document = json.loads(answer)
            rows = next(iter(document.values())) if isinstance(document, dict) else document
            return tuple(found for row in rows for found in self.read(row))
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise AmdSmiError(f"its answer is not in a known form: {type(error).__name__}: {error}") from None


def _errors(row: Any) -> list[EccErrors]:
    total = row.get("ecc", "N/A")  # a guest of a virtual machine has none
    corrected, uncorrected, deferred = (_count(total, kind) for kind in ("correctable", "uncorrectable", "deferred"))
    listed = row.get("ecc_blocks")
    each = listed.items() if isinstance(listed, dict) else ()
    blocks = {name: counted["uncorrectable_count"] for name, counted in each}
    blocks = {name: count for name, count in blocks.items() if isinstance(count, int) and count}
    return [EccErrors(int(row["gpu"]), corrected, uncorrected, deferred, blocks)]


def _pages(row: Any) -> list[BadPages]:
    def count(pages: Any) -> int | None:  # a list, one page without its list, or a text
        if isinstance(pages, (list, dict)):
            return len(pages) if isinstance(pages, list) else 1
        return None if pages == "N/A" else 0

    return [BadPages(int(row["gpu"]), *(count(row[kind]) for kind in ("retired", "pending", "un_res")))]


def _metrics(row: Any) -> list[Health]:
    temperature, power = row.get("temperature"), row.get("power")
    return [
        Health(
            pci=str(int(row["gpu"])),
            name="",
            throttling=_violations(row) or _throttled(row),
            temperature_c=_whole(temperature, "hotspot", "edge"),
            memory_c=_whole(temperature, "mem"),
            power_w=_first(power, "socket_power", "average_socket_power"),
            clock_mhz=_highest_clock(row, "clk"),
            clock_max_mhz=_highest_clock(row, "max_clk"),
        )
    ]


def _highest_clock(row: Any, key: str) -> int | None:
    """Return the clock of the fastest of a GPU's chips that compute; a chip without work has a low one."""
    clocks = row.get("clock")
    parts = clocks.items() if isinstance(clocks, dict) else ()
    found = (_whole(part, key) for name, part in parts if name.startswith("gfx"))
    return max((clock for clock in found if clock is not None), default=None)


def _limits(row: Any) -> list[Health]:
    known = row.get("limit")
    return [
        Health(
            pci=str(int(row["gpu"])),
            name="",
            power_limit_w=_first(known, "socket_power"),
            temperature_max_c=_whole(known, "slowdown_hotspot_temperature"),
            memory_max_c=_whole(known, "slowdown_vram_temperature"),
        )
    ]


def _links(row: Any) -> list[GpuLink]:
    found = [GpuLink(int(row["gpu"]), int(link["gpu"]), str(link["link_type"])) for link in row["links"]]
    return [link for link in found if link.gpu != link.other]


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


def _whole(details: Any, *keys: str) -> int | None:
    value = _first(details, *keys)
    return None if value is None else round(value)


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


GPUS = Query(("list",), lambda row: [Gpu(pci=pci_address(row["bdf"]))])
"""Its UUID is not torch's."""
ERRORS = Query(("metric",), _errors)
PAGES = Query(("bad-pages",), _pages)
METRICS = Query(("metric",), _metrics)
"""With the GPU's number in place of its address. Releases have different options for throttling and for the blocks with errors; without an
option all of them report both."""
ERRORS_AND_METRICS = Query(("metric",), lambda row: list(zip(_errors(row), _metrics(row), strict=True)))
"""Both by one call, which takes about a second."""
LIMITS = Query(("static", "--limit"), _limits)
"""What a GPU slows itself down at."""
LINKS = Query(("topology",), _links)
"""The link of each ordered pair of GPUs."""
