"""The page without a browser: figures, starts, times of phases."""

from pathlib import Path

from provision.core.models.records import HostSummary, ServeRecord
from provision.core.run_folder import RunFolder
from provision.report import page
from provision.report.page.figures import figure_rows
from provision.report.page.series import startup
from provision.report.page.view import Page
from tests.report.page import fleets
from tests.report.sample import CPU_STACK, Folder, check, host


def test_figures_name_the_odd_reading(content: Page) -> None:
    (_, (wrong, slow)), (_, within), _ = content.figure_tables
    assert (wrong.name, wrong.beyond, wrong.high.where, wrong.high.value) == (
        "error, bfloat16",
        1,
        "gpu-058 cuda:2",
        3.27,
    )
    assert (slow.name, slow.beyond, slow.low.where, slow.low.value) == ("bfloat16 products", 1, "gpu-071 cuda:2", 402.0)
    assert slow.readings == 760
    assert [row.name for row in within] == ["lanes", "speed", "memory, read and written"], (
        "no row for each GPU of a host"
    )


def test_counts_are_not_drawn_and_figures_without_a_floor_come_last() -> None:
    figures = [
        {"name": "speed", "value": 3.0, "unit": "ms"},
        {"name": "files", "value": 7.0, "unit": "count"},
        {"name": "wrong", "value": 0.0, "unit": "count", "ceiling": 0.0},
        {"name": "lost", "value": None, "unit": "ms", "floor": 1.0},
    ]
    record = check("a.b", figures=figures)
    one = HostSummary.model_validate({"name": "h", "state": "serving", "changed": False, "checks": [record]})
    assert [(row.name, row.bound) for row in figure_rows([(1, one)])] == [("wrong", "at most 0"), ("speed", "")]


def test_one_reading_for_each_device_is_shown_once(tmp_path: Path, large: RunFolder) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a", local=True)])
    folder.planned(["a"], CPU_STACK)
    folder.green("a")
    assert ">reading</th>" in page.render(folder.run)
    assert ">reading</th>" not in page.render(large)


def test_the_bars_of_phases_are_measured_by_the_slowest_host(content: Page, large: RunFolder) -> None:
    slowest = max(content.hosts, key=lambda line: line.seconds)
    assert content.longest == slowest.seconds
    install = slowest.host.phases["install"]
    assert f'width:{100 * install.seconds / slowest.seconds:.2f}%" title="install ok' in page.render(large)


def test_the_slowest_start_is_the_first() -> None:
    def serving(name: str, **phases: float) -> HostSummary:
        record = ServeRecord(startup_s=phases)
        return HostSummary(name=name, state="serving", changed=True, serve=record)

    quick = serving("quick", health=10.0, first_token=11.0, first_answer=0.4)
    shown = startup([quick, serving("slow", health=50.0, first_token=52.0), serving("silent")])
    assert shown
    assert shown.headers == ("host", "health after", "first token after")
    assert shown.rows == (("slow", "50 s", "52 s"), ("quick", "10 s", "11 s"))
    assert startup([serving("silent")]) is None


def test_attention_is_shown_from_the_evidence_of_its_checks(content: Page) -> None:
    forward, memory = content.series
    assert forward.headers == ("length in tokens", "flash, ms", "standard, ms")
    assert [row[0] for row in forward.rows] == ["128", "256", "512", "1024", "2048", "4096", "8192", "16384"]
    assert memory.rows[0] == ("128", "70.66 kB", "262.1 kB")
    assert memory.rows[-1] == ("16384", "8.524 MB", "")
