"""The output of amd-smi in each of its forms, and its meaning."""

import json
from pathlib import Path

import pytest

from tests.verify.localhost import program
from verify.checks.devices.cards import evaluate_amd_clocks as evaluate_clocks
from verify.checks.devices.cards import evaluate_amd_ecc as evaluate_ecc
from verify.checks.devices.cards import evaluate_amd_links as evaluate_links
from verify.host.views import amd_smi
from verify.host.views.nvml import Health

ROCM_6 = """[
    {"gpu": 0, "ecc": {"total_correctable_count": 7, "total_uncorrectable_count": 0, "total_deferred_count": 0,
                       "cache_correctable_count": 0, "cache_uncorrectable_count": 0}},
    {"gpu": 1, "ecc": {"total_correctable_count": "N/A", "total_uncorrectable_count": "N/A", "total_deferred_count": "N/A",
                       "cache_correctable_count": "N/A", "cache_uncorrectable_count": "N/A"}}
]"""


def test_amd_smi_is_read_in_both_of_its_forms() -> None:
    found = amd_smi.ERRORS.parse(ROCM_6)
    assert found == (amd_smi.EccErrors(0, 7, 0, 0), amd_smi.EccErrors(1, None, None, None))
    assert amd_smi.ERRORS.parse(f'{{"gpu_data": {ROCM_6}}}') == found
    assert amd_smi.ERRORS.parse('[{"gpu": 2, "ecc": "N/A"}]') == (amd_smi.EccErrors(2, None, None, None),)
    for broken in ("", "[{}]", '{"gpu_data": [{"gpu": 0, "ecc": {}}]}', "WARNING: user is missing the render group"):
        with pytest.raises(amd_smi.AmdSmiError):
            amd_smi.ERRORS.parse(broken)


def test_amd_smi_outside_the_path_is_asked_where_rocm_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr(amd_smi, "ROCM_BIN", str(tmp_path))
    assert amd_smi.ERRORS.ask() is None
    program(tmp_path / "amd-smi", f'echo "$@" >"{tmp_path}/options"\nexec /bin/cat "{tmp_path}/answer"')
    (tmp_path / "answer").write_text(ROCM_6, encoding="utf-8")
    assert amd_smi.ERRORS.ask() == amd_smi.ERRORS.parse(ROCM_6)
    assert (tmp_path / "options").read_text(encoding="utf-8").split() == [*amd_smi.ERRORS.options, "--json"]


def test_uncorrected_errors_of_amd_cards_fail() -> None:
    assert evaluate_ecc(amd_smi.ERRORS.parse(ROCM_6)).status == "ok"
    assert evaluate_ecc([amd_smi.EccErrors(0, 0, 2, 0)]).reason == "GPU 0: 2 uncorrected memory errors"
    assert evaluate_ecc([amd_smi.EccErrors(0, 0, 0, 3)]).status == "warn"
    assert evaluate_ecc([amd_smi.EccErrors(1, None, None, None)]).status == "skip"


BLOCKS = """[
    {"gpu": 0, "ecc": {"total_correctable_count": 7, "total_uncorrectable_count": 3, "total_deferred_count": 0},
     "ecc_blocks": {"UMC": {"correctable_count": 7, "uncorrectable_count": 2, "deferred_count": 0},
                    "SDMA": {"correctable_count": 0, "uncorrectable_count": 0, "deferred_count": 0},
                    "XGMI_WAFL": {"correctable_count": 0, "uncorrectable_count": 1, "deferred_count": 0},
                    "GFX": {"correctable_count": "N/A", "uncorrectable_count": "N/A", "deferred_count": "N/A"}}},
    {"gpu": 1, "power": "N/A"}
]"""
PAGES = """[
    {"gpu": 0, "retired": "No bad pages found.", "pending": "No bad pages found.", "un_res": "No bad pages found."},
    {"gpu": 1, "retired": [{"page_address": 4096, "page_size": 4096, "status": "RESERVED"},
                           {"page_address": 8192, "page_size": 4096, "status": "RESERVED"}],
     "pending": {"page_address": 12288, "page_size": 4096, "status": "PENDING"}, "un_res": "No bad pages found."},
    {"gpu": 2, "retired": "N/A", "pending": "N/A", "un_res": "N/A"}
]"""


def test_the_block_with_the_errors_is_named() -> None:
    found = amd_smi.ERRORS.parse(BLOCKS)
    assert found == (amd_smi.EccErrors(0, 7, 3, 0, {"UMC": 2, "XGMI_WAFL": 1}), amd_smi.EccErrors(1, None, None, None))
    assert evaluate_ecc(found).reason == "GPU 0: 3 uncorrected memory errors (UMC 2, XGMI_WAFL 1)"


def test_bad_pages_are_a_warning_while_they_are_in_use() -> None:
    pages = amd_smi.PAGES.parse(PAGES)
    assert pages == (amd_smi.BadPages(0, 0, 0, 0), amd_smi.BadPages(1, 2, 1, 0), amd_smi.BadPages(2, None, None, None))
    errors = amd_smi.ERRORS.parse(ROCM_6)
    retired = evaluate_ecc(errors, pages)
    assert (retired.status, retired.reason) == ("warn", "GPU 1: 1 memory pages are pending retirement")
    assert [figure.value for figure in retired.figures] == [0, 2]
    assert evaluate_ecc(errors, pages[:1]).status == evaluate_ecc((), pages[:1]).status == "ok"
    assert evaluate_ecc(errors, [amd_smi.BadPages(0, 0, 0, 3)]).status == "warn"
    assert evaluate_ecc((), pages[2:]).status == "skip"


METRICS = """[
    {"gpu": 0, "power": {"socket_power": {"value": 142, "unit": "W"}, "throttle_status": "N/A"},
     "throttle": {"accumulation_counter": 2610334, "prochot_accumulated": 0, "socket_thermal_accumulated": 12,
                  "prochot_violation_status": "NOT ACTIVE", "ppt_violation_status": "ACTIVE",
                  "socket_thermal_violation_status": "ACTIVE", "vr_thermal_violation_status": "N/A",
                  "low_utilization_violation_status": {"xcp_0": ["ACTIVE", "N/A"]},
                  "socket_thermal_violation_activity": {"value": 3, "unit": "%"}}},
    {"gpu": 1, "power": {"throttle_status": "UNTHROTTLED"}},
    {"gpu": 2, "power": {"throttle_status": "THROTTLED"}, "throttle": "N/A"},
    {"gpu": 3, "power": "N/A", "throttle": {"prochot_violation_status": "N/A"}}
]"""


def test_reasons_for_slow_clocks_are_read_from_new_and_old_amd_cards() -> None:
    found = amd_smi.METRICS.parse(METRICS)
    assert [dict(card.throttling or {}) for card in found] == [
        {"prochot": False, "ppt": True, "socket_thermal": True},
        {"throttled": False},
        {"throttled": True},
        {},
    ]
    assert amd_smi.METRICS.parse(f'{{"gpu_data": {METRICS}}}') == found
    with pytest.raises(amd_smi.AmdSmiError):
        amd_smi.METRICS.parse("{}")


def test_temperature_and_power_are_read_from_new_and_old_releases() -> None:
    rows = [
        {
            "gpu": 0,
            "temperature": {"edge": "N/A", "hotspot": {"value": 54, "unit": "C"}, "mem": {"value": 61, "unit": "C"}},
            "power": {"socket_power": {"value": 142, "unit": "W"}},
        },
        {"gpu": 1, "temperature": {"edge": 41, "hotspot": "N/A", "mem": "N/A"}, "power": {"average_socket_power": 90}},
        {"gpu": 2, "temperature": "N/A", "power": "N/A"},
    ]
    found = amd_smi.METRICS.parse(json.dumps(rows))
    assert [(card.pci, card.temperature_c, card.memory_c, card.power_w) for card in found] == [
        ("0", 54, 61, 142),
        ("1", 41, None, 90),
        ("2", None, None, None),
    ]


def test_overheating_of_an_amd_card_is_reported_and_a_power_cap_is_not() -> None:
    hot = evaluate_clocks(amd_smi.METRICS.parse(METRICS))
    assert (hot.status, hot.reason) == (
        "warn",
        "GPU 0 is slowed down: its socket is too hot; GPU 2 is slowed down: for a reason that amd-smi does not name",
    )
    assert hot.remedy
    assert evaluate_clocks([Health("0", "", throttling={"ppt": True, "prochot": False})]).status == "ok"
    assert evaluate_clocks([Health("0", "", throttling={"prochot": True})]).status == "fail"
    assert evaluate_clocks([Health("0", "")]).status == "skip"


def topology(*kinds: str) -> str:
    """Return the output of amd-smi for three cards; `kinds` of the pairs 0 1, 0 2 and 1 2, the same both ways."""
    by_pair = dict(zip(((0, 1), (0, 2), (1, 2)), kinds, strict=True))
    rows = [
        {
            "gpu": gpu,
            "bdf": f"0000:{gpu}1:00.0",
            "links": [
                {"gpu": other, "link_type": "SELF" if gpu == other else by_pair[min(gpu, other), max(gpu, other)]}
                for other in range(3)
            ],
        }
        for gpu in range(3)
    ]
    return json.dumps(rows)


def test_a_pair_of_amd_cards_with_another_link_than_the_others_is_named() -> None:
    whole = evaluate_links(amd_smi.LINKS.parse(topology("XGMI", "XGMI", "XGMI")))
    assert (whole.status, whole.reason) == ("ok", "6 ordered pairs of AMD GPUs are connected by xGMI")
    odd = evaluate_links(amd_smi.LINKS.parse(topology("XGMI", "XGMI", "PCIE")))
    assert (odd.status, odd.reason) == (
        "warn",
        "not connected by xGMI like the other GPUs: GPU 1 to 2 by PCIE, GPU 2 to 1 by PCIE",
    )
    assert evaluate_links(amd_smi.LINKS.parse(topology("PCIE", "PCIE", "PCIE"))).status == "skip"
    assert evaluate_links(()).status == "skip"


def joints(*groups: range, apart: tuple[tuple[int, int], ...] = ()) -> list[amd_smi.GpuLink]:
    """Return the links of eight cards in groups that bridges connect; the pairs `apart` have no xGMI, though in one group."""

    def kind(one: int, other: int) -> str:
        bridged = any(one in group and other in group for group in groups)
        return "XGMI" if bridged and (min(one, other), max(one, other)) not in apart else "PCIE"

    return [amd_smi.GpuLink(one, other, kind(one, other)) for one in range(8) for other in range(8) if one != other]


def test_bridges_may_connect_amd_cards_in_groups_of_one_size() -> None:
    assert evaluate_links(joints(range(4), range(4, 8))).status == "ok"
    assert evaluate_links(joints(*(range(place, place + 2) for place in range(0, 8, 2)))).status == "ok"
    apart = evaluate_links(joints(range(4), range(4, 8), apart=((4, 6),)))
    assert (apart.status, apart.reason) == (
        "warn",
        "not connected by xGMI like the other GPUs: GPU 4 to 6 by PCIE, GPU 6 to 4 by PCIE",
    )
    uneven = evaluate_links(joints(range(4), range(4, 7)))
    assert (uneven.status, uneven.reason) == (
        "warn",
        "xGMI connects the GPUs in groups of different sizes: 0 1 2 3, 4 5 6, 7",
    )
    assert [(figure.value, figure.floor) for figure in (*apart.figures, *uneven.figures)] == [(22, 24), (18, 24)]
