"""State of a GPU while work runs on it: why it is slowed down, its clock, temperature and power."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, Thread
from typing import Any

from verify.host.views import amd_smi, pci
from verify.host.views.nvml import LIBRARY, Health, NvmlError, opened, read_limits, read_load
from verify.records import Observation
from verify.tables import table

INTERVAL_S = 0.02
"""Seconds between two readings: about ten in the shortest measurement of a speed."""


@contextmanager
def watch(address: str | None, library: str = LIBRARY) -> Iterator[list[Health]]:
    """Read a GPU again and again while the block runs; the list grows until then.

    It stays empty without an address, for a GPU that neither NVML nor amd-smi lists, and without both. A call of amd-smi takes about a
    second, so short loads of AMD GPUs have no reading; one that ends after the load does not count. `address` is that of the PCI bus.
    """
    readings: list[Health] = []
    done = Event()
    is_amd = address is not None and address in {gpu.pci for gpu in pci.gpus("amd")}
    how, what = (_read_amd, (address,)) if is_amd else (_read, (address, library))
    reader = Thread(target=how, args=(*what, readings, done), daemon=True)
    if address:
        reader.start()
    try:
        yield readings
    finally:
        done.set()
        if address and not is_amd:
            reader.join()


def _read(address: str, library: str, readings: list[Health], done: Event) -> None:
    with suppress(NvmlError), opened(library) as (nvml, handles):
        limits = ((handle, read_limits(nvml, handle)) for handle in handles)
        handle, known = next((one for one in limits if one[1].pci == address), (None, None))
        while handle and known:
            readings.append(read_load(nvml, handle, known))
            if done.wait(INTERVAL_S):
                break


def _read_amd(address: str, readings: list[Health], done: Event) -> None:
    with suppress(amd_smi.AmdSmiError):
        number = next((str(place) for place, gpu in enumerate(amd_smi.GPUS.ask() or ()) if gpu.pci == address), None)
        known = next((one for one in amd_smi.LIMITS.ask() or () if one.pci == number), Health(address, ""))
        limits = {name: getattr(known, name) for name in ("power_limit_w", "temperature_max_c", "memory_max_c")}
        while not done.is_set():
            seen = next((one for one in amd_smi.METRICS.ask() or () if one.pci == number), None)
            if seen is None or done.is_set():
                break
            readings.append(replace(seen, pci=address, **limits))


def _active(reading: Health) -> set[str]:
    return {reason for reason, is_active in (reading.throttling or {}).items() if is_active}


def reasons(readings: Sequence[Health]) -> list[tuple[Mapping[str, Any], int]]:
    """Return the rows of the reasons that lowered the clock (`devices.clocks`), each with the number of readings that had it."""
    counts = Counter(bits for one in readings if (bits := one.clock_reasons))
    rows = [
        (row, sum(counts[bits] for bits in counts if bits & row["bit"])) for row in table("devices")["clock_reason"]
    ]
    named = Counter(reason for one in readings for reason in _active(one))
    rows += [(row, named[row["reason"]]) for row in table("devices")["amd_limit"] if row.get("under_load", True)]
    return [(row, count) for row, count in rows if count]


def slowdowns(readings: Sequence[Health]) -> Iterator[Observation]:
    """Evaluate the readings of one GPU under load by the reasons of `devices.clocks`, and its clock and temperatures against their limits.

    A clock that a power cap lowers is no fault.
    """
    rule, found = table("speed")["clock"], reasons(readings)
    remedy = "remedy" if all(one.throttling is None for one in readings) else "amd_remedy"
    for row, count in found:
        if row["status"] in ("warn", "fail"):
            seen = f"in {count} of {len(readings)} readings"
            text = f"{readings[0].pci} is slowed down under load: {row['name']} ({seen})"
            yield Observation(row["status"], text, row["remedy"])
    highest, most = highest_of(readings, "clock_mhz"), highest_of(readings, "clock_max_mhz")
    capped = any(row.get("bit") == rule["power_cap"] for row, _ in found)
    capped = capped or any(set(rule["amd_power_caps"]) & _active(one) for one in readings)
    if highest and most and highest < rule["share"] * most and not capped:
        text = f"{readings[0].pci} runs at {highest} of {most} MHz under load, and no power cap lowers its clock"
        yield Observation("warn", text, rule[remedy])
    for row in table("speed")["temperature"]:
        hottest, limit = highest_of(readings, row["field"]), highest_of(readings, row["limit"])
        if hottest and limit and hottest > limit:
            text = f"{readings[0].pci}: {row['name']} reaches {hottest} °C under load, its limit is {limit} °C"
            yield Observation("warn", text, row[remedy])


def highest_of(readings: Sequence[Health], field: str) -> Any:
    """Return the highest value of a field of the readings; None if none has one."""
    return max((value for one in readings if (value := getattr(one, field)) is not None), default=None)


def as_evidence(readings: Sequence[Health]) -> Mapping[str, Any]:
    """Return the number of readings, the highest of each value, and all reasons; empty without readings."""
    if not readings:
        return {}
    temperatures = (field for row in table("speed")["temperature"] for field in (row["field"], row["limit"]))
    fields = ("clock_mhz", "clock_max_mhz", *temperatures, "power_w", "power_limit_w")
    highest = {field: highest_of(readings, field) for field in fields}
    return {"load": {"readings": len(readings), **highest, "reasons": [row["name"] for row, _ in reasons(readings)]}}
