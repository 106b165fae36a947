"""What slows a GPU down under load. No GPU is here: readings are made up, or come from a stand-in for NVML."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.verify.localhost import program
from tests.verify.nvml_stand_in import SENSORS, library
from verify.host.load import as_evidence, slowdowns, watch
from verify.host.views import Gpu, pci
from verify.host.views.nvml import Health
from verify.operators.speed import evaluate
from verify.records import CheckContext, Figure

CAPPED = Health(
    "0000:1b:00.0",
    "NVIDIA H100 80GB HBM3",
    clock_reasons=0x4,
    clock_mhz=1410,
    clock_max_mhz=1980,
    temperature_c=61,
    power_w=699.5,
    power_limit_w=700.0,
)
HOT_LATER = """
int nvmlDeviceGetCurrentClocksEventReasons(void *h, unsigned long long *bits) {
    static int calls; *bits = ++calls > 3 ? 0x44 : 0x4; return 0; }
"""
"""A GPU that gets too hot after the third reading."""


def test_a_gpu_that_gets_hot_under_load_is_read_from_a_stand_in_for_nvml(tmp_path: Path) -> None:
    with watch("0000:1b:00.0", library(tmp_path, more=SENSORS + HOT_LATER)) as readings:
        while not any((one.clock_reasons or 0) & 0x40 for one in readings):
            pass
    (found,) = slowdowns(readings)
    assert found.status == "fail"
    assert found.text.startswith("0000:1b:00.0 is slowed down under load: too hot (hardware) (in ")
    load = as_evidence(readings)["load"]
    assert load["reasons"] == ["power cap (software)", "too hot (hardware)"]
    assert (load["clock_mhz"], load["clock_max_mhz"], load["temperature_c"], load["power_w"]) == (1410, 1980, 61, 412.5)
    assert (load["temperature_max_c"], load["memory_c"], load["memory_max_c"]) == (88, 74, 97)


def test_what_no_load_changes_is_read_once(tmp_path: Path) -> None:
    more = SENSORS.replace("{ *mhz = 1980;", "{ static unsigned calls; *mhz = 1980 + calls++;")
    with watch("0000:1b:00.0", library(tmp_path, more=more)) as readings:
        while len(readings) < 5:
            pass
    assert {one.clock_max_mhz for one in readings} == {1980}


@pytest.mark.parametrize("address", [None, "0000:99:00.0"], ids=["a CPU", "a GPU that NVML does not list"])
def test_other_devices_have_no_readings(address: str | None, tmp_path: Path) -> None:
    with watch(address, library(tmp_path, more=SENSORS + HOT_LATER)) as readings:
        pass
    assert (readings, list(slowdowns(readings)), as_evidence(readings)) == ([], [], {})


@pytest.mark.parametrize(
    ("reading", "status", "text"),
    [
        (CAPPED, "ok", ""),
        (replace(CAPPED, clock_reasons=0x20), "warn", "too hot (software) (in 1 of 2 readings)"),
        (replace(CAPPED, clock_reasons=0x80), "fail", "power brake of the system (in 1 of 2 readings)"),
    ],
    ids=["a power cap", "warm", "power supply"],
)
def test_the_reasons_of_a_reading_under_load_are_evaluated_as_those_without(
    reading: Health, status: str, text: str
) -> None:
    outcome = evaluate([Figure("memory", 14.0, "GB/s")], CheckContext(), {}, [CAPPED, reading])
    assert (outcome.status, text in outcome.reason) == (status, True), outcome.reason


AMD = Health("0000:05:00.0", "", clock_mhz=600, clock_max_mhz=2100)


@pytest.mark.parametrize(
    ("reading", "warning", "remedy"),
    [
        (
            replace(CAPPED, clock_mhz=600, clock_reasons=0),
            "0000:1b:00.0 runs at 600 of 1980 MHz under load",
            "nvidia-smi",
        ),
        (replace(CAPPED, clock_mhz=600), "", ""),
        (replace(CAPPED, clock_mhz=1100, clock_reasons=0), "", ""),
        (replace(CAPPED, clock_mhz=None, clock_reasons=0), "", ""),
        (
            replace(AMD, throttling={"low_utilization": True}),
            "0000:05:00.0 runs at 600 of 2100 MHz under load",
            "amd-smi",
        ),
        (replace(AMD, throttling={"ppt": True}), "", ""),
        (replace(AMD, throttling={"throttled": True}), "", ""),
    ],
)
def test_a_low_clock_under_load_is_a_warning_unless_a_power_cap_may_explain_it(
    reading: Health, warning: str, remedy: str
) -> None:
    outcome = evaluate([Figure("memory", 14.0, "GB/s")], CheckContext(), {}, [reading])
    assert outcome.status == ("warn" if warning else "ok")
    assert warning in outcome.reason
    assert (outcome.remedy or "").startswith(remedy)


@pytest.mark.parametrize(
    ("reading", "text"),
    [
        ({"memory_c": 97}, "0000:1b:00.0: the memory reaches 97 °C under load, its limit is 95 °C"),
        ({"memory_c": 95}, None),
        ({"memory_c": 97, "memory_max_c": None}, None),
        (
            {"temperature_c": 89, "temperature_max_c": 88},
            "0000:1b:00.0: the chip reaches 89 °C under load, its limit is 88 °C",
        ),
    ],
    ids=["memory too hot", "memory at its limit", "a driver that reports no limit", "chip too hot"],
)
def test_a_temperature_above_its_limit_is_a_warning(reading: dict[str, Any], text: str | None) -> None:
    cool = replace(CAPPED, memory_c=60, memory_max_c=95)
    outcome = evaluate([Figure("memory", 14.0, "GB/s")], CheckContext(), {}, [replace(cool, **reading)])
    assert (outcome.status, outcome.reason) == (("warn", text) if text else ("ok", outcome.reason))


AMD_SMI = {
    "list": [{"gpu": 0, "bdf": "0000:05:00.0"}, {"gpu": 1, "bdf": "0000:26:00.0"}],
    "static": [
        {
            "gpu": gpu,
            "limit": {
                "max_power": {"value": 750, "unit": "W"},
                "socket_power": {"value": 750, "unit": "W"},
                "slowdown_edge_temperature": "N/A",
                "slowdown_hotspot_temperature": {"value": 100, "unit": "C"},
                "slowdown_vram_temperature": {"value": 105, "unit": "C"},
            },
        }
        for gpu in range(2)
    ],
    "metric": [
        {
            "gpu": gpu,
            "power": {"socket_power": {"value": 744, "unit": "W"}, "throttle_status": "N/A"},
            "clock": {
                "gfx_0": {"clk": {"value": 132, "unit": "MHz"}, "max_clk": {"value": 2100, "unit": "MHz"}},
                "gfx_1": {"clk": {"value": 1423, "unit": "MHz"}, "max_clk": {"value": 2100, "unit": "MHz"}},
                "mem_0": {"clk": {"value": 1300, "unit": "MHz"}, "max_clk": {"value": 1300, "unit": "MHz"}},
                "vclk_0": {"clk": "N/A", "max_clk": "N/A"},
            },
            "temperature": {
                "edge": "N/A",
                "hotspot": {"value": 88, "unit": "C"},
                "mem": {"value": 97 + 10 * gpu, "unit": "C"},
            },
            "throttle": {
                "prochot_violation_status": "NOT ACTIVE",
                "ppt_violation_status": "ACTIVE",
                "hbm_thermal_violation_status": "ACTIVE" if gpu else "NOT ACTIVE",
            },
        }
        for gpu in range(2)
    ],
}
"""Answers of amd-smi by its command, in the form of ROCm 6."""


def test_an_amd_gpu_whose_memory_gets_hot_under_load_is_read_from_amd_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command, answer in AMD_SMI.items():
        (tmp_path / command).write_text(json.dumps(answer))
    program(tmp_path / "amd-smi", f'exec /bin/cat "{tmp_path}/$1"')
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pci, "gpus", lambda _vendor: (Gpu(pci="0000:05:00.0"), Gpu(pci="0000:26:00.0")))
    for address in ("0000:05:00.0", "0000:26:00.0"):
        with watch(address) as readings:
            while not readings:
                pass
        found = list(slowdowns(readings))
        if address == "0000:05:00.0":
            assert found == []
            load = as_evidence(readings)["load"]
            assert (load["clock_mhz"], load["clock_max_mhz"], load["power_w"], load["power_limit_w"]) == (
                1423,
                2100,
                744,
                750,
            )
    assert [entry.status for entry in found] == ["warn", "warn"]
    assert found[0].text.startswith("0000:26:00.0 is slowed down under load: its memory is too hot (in ")
    assert found[1].text == "0000:26:00.0: the memory reaches 107 °C under load, its limit is 105 °C"
    assert found[1].remedy == "look at the cooling: amd-smi metric --temperature"


def test_a_slow_gpu_that_is_too_hot_is_told_both() -> None:
    figures = [Figure("memory", 14.0, "GB/s", floor=20.0)]
    outcome = evaluate(figures, CheckContext(), {}, [replace(CAPPED, clock_reasons=0x40)])
    assert outcome.status == "fail"
    assert "too hot (hardware)" in outcome.reason
    assert "slow: memory 14 GB/s, at least 20" in outcome.reason
    assert outcome.remedy == "look at the cooling: nvidia-smi -q -d TEMPERATURE"
