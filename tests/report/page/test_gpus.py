"""The tables of GPUs and of the load: which values of which checks they show."""

from pathlib import Path
from typing import Any

import pytest

from provision.core.models.records import CheckRecord, HostSummary
from provision.report import page
from provision.report.page import render_page
from provision.report.page.figures import Cell, GpuTable, figure_rows, gpu_table, load_rows
from provision.report.page.view import Page
from tests.report.page import fleets
from tests.report.sample import Folder, check, host


def one(*records: dict[str, Any], name: str = "gpu-1") -> HostSummary:
    checks = tuple(CheckRecord.model_validate(check(record["id"]) | record) for record in records)
    return HostSummary(name=name, state="serving", changed=False, checks=checks)


def cells_of(table: GpuTable, row: int = 0) -> dict[str, Cell]:
    return {title: table.rows[row].cells[place] for place, title, _ in table.columns}


def test_a_row_has_all_that_the_checks_found_of_one_gpu() -> None:
    table = gpu_table([one(*fleets.gpu_checks(0, slow=True))])
    assert [(row.device, row.name, row.is_odd) for row in table.rows[1:4]] == [
        ("cuda:1", fleets.H100, False),
        ("cuda:2", fleets.H100, True),
        ("cuda:3", fleets.H100, False),
    ]
    slow = cells_of(table, 2)
    assert {title: cell.value for title, cell in slow.items()} == {
        "temperature": "84 °C",
        "power": "402 W",
        "SM clock": "1095 MHz",
        "memory errors": "0",
        "PCIe": "16 x 32 GT/s",
        "NVLink": "18 links",
        "bfloat16 matmul": "402 TFLOP/s",
        "memory speed": slow["memory speed"].value,
    }
    assert [title for title, cell in slow.items() if cell.is_beyond] == ["bfloat16 matmul"]
    assert [bound for _, _, bound in table.columns] == [
        "", "limit 700 W", "", "", "", "at least 18", "at least 675", "at least 2512",
    ]  # fmt: skip


def test_only_columns_of_which_something_is_known_are_shown() -> None:
    table = gpu_table([one(*fleets.CARD["checks"], *fleets.CARD["serving_checks"])])
    assert {title: cell.value for title, cell in cells_of(table).items()} == {
        "PCIe": "16 x 32 GT/s",
        "bfloat16 matmul": "779 TFLOP/s",
        "memory speed": "3009 GB/s",
    }
    assert table.odd == ()


@pytest.mark.parametrize(
    ("card", "words", "odd"),
    [
        ({"uncorrected": [3, 9]}, "3", True),
        ({"uncorrected": [0, 9]}, "0", False),
        ({"ecc": [False, True], "uncorrected": [0, 0]}, "ECC off", False),
        ({"uncorrected": None}, "", False),
    ],
)
def test_memory_errors_since_the_driver_was_loaded_are_shown(card: dict[str, Any], words: str, *, odd: bool) -> None:
    records = [
        check("devices.ecc", device=None, evidence=[fleets.health(0) | card]),
        check("kernels.gemm", device="cuda:0"),
    ]
    (row,) = gpu_table([one(*records)]).rows
    assert (row.cells[3].value, row.is_odd) == (words, odd)


@pytest.mark.parametrize("evidence", [None, "text", 7, [], [7], {"load": []}, {"load": {}}])
def test_evidence_of_another_form_leaves_cells_empty(evidence: Any) -> None:
    records = [check(id_, device="cuda:0", evidence=evidence) for id_ in ("devices.gpus", "devices.ecc", "speed.gemm")]
    (row,) = gpu_table([one(*records)]).rows
    assert not row.is_odd


def test_what_the_driver_does_not_read_is_taken_from_its_health_or_left_out() -> None:
    said = {"load": {"clock_mhz": None, "power_w": None, "temperature_c": None}}
    records = [check("speed.gemm", device="cuda:0", evidence=said)]
    health = check("devices.ecc", device=None, evidence=[fleets.health(0)])
    (bare,), (known,) = gpu_table([one(*records)]).rows, gpu_table([one(*records, health)]).rows
    assert [cell.value for cell in bare.cells[:3]] == ["", "", ""]
    assert [cell.value for cell in known.cells[:3]] == ["31 °C", "71 W", ""]


def test_a_host_without_gpus_has_no_row(content: Page) -> None:
    assert {row.host for row in content.gpus.rows if row.host.startswith("cpu")} == set()
    assert [(row.host, row.device) for row in content.gpus.odd] == [("gpu-071", "cuda:2")]


def test_of_many_gpus_those_beyond_a_bound_are_open(content: Page) -> None:
    section = render_page(page=content).partition('<section id="gpus"')[2].partition("</section>")[0]
    seen, _, folded = section.partition("<details")
    assert seen.count("<tr") == 2
    assert folded.count("<tr") == 1 + 95 * 8


def test_the_load_is_a_row_for_each_number_of_requests() -> None:
    rows = load_rows(figure_rows([(1, one(*fleets.CARD["serving_checks"]))]))
    assert rows == (
        ("1", "1", "305.4", "12.19 ms", "18.42 ms", "2.282 ms"),
        ("1", "4", "1042", "23.14 ms", "26.5 ms", "2.138 ms"),
        ("1", "16", "2984", "50.12 ms", "53.97 ms", "2.146 ms"),
    )
    slower = [
        {**each, "figures": [{**f, "value": f["value"] * 3} for f in each["figures"]]}
        for each in fleets.CARD["serving_checks"]
    ]
    both = load_rows(figure_rows([(1, one(*fleets.CARD["serving_checks"])), (1, one(*slower, name="b"))]))
    assert both[0][2] == "610.8 (305.4 to 916.2)", "median and range of two hosts"


def test_bounds_are_folded_on_a_green_run_and_open_where_one_is_missed(tmp_path: Path) -> None:
    shown = {}
    for name, slow in (("green", False), ("amber", True)):
        folder = Folder(tmp_path / name, [host("gpu-1")])
        folder.green("gpu-1", gpus=8, records=fleets.gpu_checks(0, slow=slow))
        shown[name] = page.render(folder.run)
    assert '<details class="figures" open>' not in shown["green"]
    assert shown["amber"].count('<details class="figures" open>') == 1
