"""What the page says, without a browser: content, escaping, times, figures, size."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from provision.models.records import ROOMS, CheckRecord, HostSummary, ServeRecord, Summary
from provision.report import page, summarise
from provision.report.page.figures import figure_rows
from provision.report.page.news import doubts
from provision.report.page.startup import MOST_DRAWN, startup
from provision.report.page.strip import MARGIN, WIDTH, strip
from provision.report.page.template import environment, render
from provision.report.page.timeline import Clock, host_spans, read_clock, timeline
from provision.report.page.view import Page, view
from provision.run import Run
from tests.report.page import fleets
from tests.report.sample import CPU_STACK, GPU_STACK, STARTED, Folder, check, document, facts, host, result

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fleets.large(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def summary(large: Run) -> Summary:
    return Summary.model_validate_json(large.path("summary.json").read_bytes())


@pytest.fixture(scope="module")
def content(summary: Summary, large: Run) -> Page:
    return view(summary, list(large.events()))


class Reader(HTMLParser):
    """Tags that were really made, the text between them, and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_what_failed_stands_before_everything_else(content: Page) -> None:
    assert content.tone == "bad"
    assert [id_ for id_, _ in content.sections] == [
        "failed", "doubts", "next", "hosts", "measured", "checks", "stack", "time",
    ]  # fmt: skip
    assert [problem.names for problem in content.problems] == ["gpu-017", "gpu-042", "gpu-058"]
    assert content.problems[1].findings[0].cause == "port-in-use"
    assert [line.host.name for line in content.ordered[:5]] == ["gpu-017", "gpu-042", "gpu-058", "gpu-071", "gpu-001"]


def test_what_makes_a_run_amber_stands_at_its_top(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host(f"gpu-{number}") for number in (1, 2, 3)])
    names = ["gpu-1", "gpu-2", "gpu-3"]
    assert GPU_STACK.vllm
    newer = GPU_STACK.model_copy(update={"vllm": GPU_STACK.vllm.model_copy(update={"version": "0.27.0"})})
    folder.planned(names, newer)
    folder.staged(names, GPU_STACK)
    for name in names:
        folder.green(name, gpus=8)
    late = check(
        "devices.clock", "warn", device=None, reason="the clock is 41 s off", remedy="timedatectl set-ntp true"
    )
    folder.run.write("verify/gpu-2.json", document([late]))
    amber = view(summarise(folder.run), [])
    assert (amber.tone, amber.sections[0]) == ("doubt", ("doubts", "Warnings"))
    assert [(doubt.kind, doubt.names, doubt.remedy) for doubt in amber.doubts] == [
        ("off the plan", "gpu-[1:3]", None),
        ("warned", "gpu-2", "timedatectl set-ntp true"),
    ]
    assert amber.doubts[1].text == "devices.clock: the clock is 41 s off"


def test_the_same_warning_with_other_numbers_stands_once(content: Page) -> None:
    assert [(doubt.names, doubt.remedy) for doubt in content.doubts] == [("gpu-071", fleets.SLOW_REMEDY)]
    slow = [
        HostSummary.model_validate(
            {
                "name": f"gpu-{number}",
                "state": "serving",
                "changed": True,
                "checks": [check("speed.gemm", "warn", device=f"cuda:{number}", reason=f"slow: {400.5 + number}")],
            }
        )
        for number in (1, 2, 3)
    ]
    other = slow[0].model_copy(update={"name": "gpu-4", "deviations": ("off",), "checks": ()})
    told = doubts(content.summary.model_copy(update={"hosts": (*slow, other)}))
    assert [(doubt.names, doubt.text) for doubt in told] == [
        ("gpu-4", "off"),
        ("gpu-[1:3]", "speed.gemm on cuda:1: slow: 401.5"),
    ]


def test_filters_count_the_hosts_that_they_show(content: Page) -> None:
    counts = {choice.key: choice.hosts for choice in content.states}
    assert counts == {"unreachable": 1, "failed": 2, "serving": 97, "doubt": 1}


def test_alike_hosts_are_one_class(content: Page) -> None:
    assert [each.names for each in content.classes] == ["gpu-[001:016], gpu-[018:096]", "gpu-017", "cpu-[1:4]"]
    assert [reason.rule for reason in content.classes[0].chosen] == ["driver", "arch", "attention"]
    assert [reason.candidate for reason in content.classes[0].refused] == [
        "vllm-0.27.0-cu131",
        "vllm-0.32.0-cpu-official",
    ]


def test_figures_name_the_odd_reading(content: Page) -> None:
    wrong, slow = content.judged[:2]
    assert (wrong.name, wrong.beyond, wrong.high.where, wrong.high.value) == (
        "error, bfloat16",
        1,
        "gpu-058 cuda:2",
        3.27,
    )
    assert (slow.name, slow.beyond, slow.low.where, slow.low.value) == ("bfloat16 products", 1, "gpu-071 cuda:2", 402.0)
    assert (wrong.worst_by_host["gpu-058"], slow.worst_by_host["gpu-071"]) == (3.27, 402.0)
    assert (len(slow.worst_by_host), slow.readings) == (95, 760)
    assert [words for _, words in slow.strip.marks] == ["gpu-071 cuda:2: 402 TFLOP/s"]
    assert not any(row.beyond for row in content.judged[2:])


def test_counted_figures_are_not_drawn_and_unjudged_ones_come_last() -> None:
    figures = [
        {"name": "speed", "value": 3.0, "unit": "ms"},
        {"name": "files", "value": 7.0, "unit": "count"},
        {"name": "wrong", "value": 0.0, "unit": "count", "ceiling": 0.0},
        {"name": "lost", "value": None, "unit": "ms", "floor": 1.0},
    ]
    record = check("a.b", figures=figures)
    one = HostSummary.model_validate({"name": "h", "state": "serving", "changed": False, "checks": [record]})
    assert [(row.name, row.bound) for row in figure_rows([(1, one)])] == [("wrong", "at most 0"), ("speed", "")]


def test_skipped_checks_stand_apart_below_the_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a", local=True)])
    folder.green("a")
    shown, _, apart = page.render(folder.run).partition('<section id="checks"')[2].partition("Skipped <b>1</b>")
    assert "kernel.matmul" in shown
    assert "attention.flash" not in shown
    assert "no CUDA device" in apart.partition("</section>")[0]


def test_one_reading_each_is_told_once(tmp_path: Path, large: Run) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a", local=True)])
    folder.planned(["a"], CPU_STACK)
    folder.green("a")
    assert ">reading</th>" in page.render(folder.run)
    assert ">reading</th>" not in page.render(large)


@pytest.mark.parametrize(
    ("values", "floor", "ceiling"),
    [([5.0, 7.0], 6.0, None), ([0.0], None, 0.0), ([-3.0, 4.0], -5.0, 5.0), ([], None, None)],
)
def test_a_strip_stays_within_its_box(values: list[float], floor: float | None, ceiling: float | None) -> None:
    drawn = strip(values, floor=floor, ceiling=ceiling, outside=[(value, "x") for value in values[:1]])
    places = [float(x) for x in re.findall(r"M([\d.]+) ", drawn.inside)] + [place for place, _ in drawn.marks]
    bounds = [place for place in (drawn.floor, drawn.ceiling) if place is not None]
    assert all(MARGIN <= place <= WIDTH - MARGIN for place in places + bounds)
    assert len(places) == len(set(values))


def test_a_reading_below_its_floor_is_drawn_left_of_it() -> None:
    drawn = strip([402.0, 690.0], floor=600.0, outside=[(402.0, "slow")])
    assert drawn.floor is not None
    assert drawn.marks[0][0] < drawn.floor < float(re.findall(r"M([\d.]+)", drawn.inside)[0])


def test_rooms_stand_where_they_were_in_time(content: Page) -> None:
    lanes = {lane.room: lane for lane in content.timeline.lanes}
    assert list(lanes) == list(ROOMS)
    install = lanes["install"].spans[0]
    assert install.left == pytest.approx(21.9 / 94.2 * 100, abs=0.1)
    assert install.left + install.width == pytest.approx(60.2 / 94.2 * 100, abs=0.1)
    assert content.timeline.ticks[1][1] == "15 s"


def test_a_check_that_failed_shows_what_it_saw(content: Page) -> None:
    line = next(line for line in content.hosts if line.host.name == "gpu-058")
    assert [(wrong.check.id, wrong.evidence) for wrong in line.wrong] == [
        ("kernels.gemm", ("call: a @ b against float64 on the CPU", "shapes: [[256, 512, 192], [127, 1000, 65]]"))
    ]


def test_a_room_visited_twice_is_one_lane_and_an_instant_no_span() -> None:
    def event(at: str, room: str, seconds: float) -> dict[str, Any]:
        return {"at": f"2026-11-20T10:15:{at}Z", "kind": "room", "room": room, "seconds": seconds}

    events = [event("10.000", "install", 10), event("10.001", "stage", 0.0), event("30.000", "install", 15)]
    strange: list[dict[str, Any]] = [
        {"kind": "room"},
        {"at": "soon", "kind": "result", "room": "plan"},
        event("12.000", "kitchen", 2),
    ]
    clock = read_clock([*events, *strange], started_at="2026-11-20T10:15:00.000Z", seconds=20.0)
    lanes = timeline(clock).lanes
    assert clock.seconds == 30.0
    assert [(lane.room, len(lane.spans), lane.seconds) for lane in lanes] == [
        ("stage", 0, "0.0 s"),
        ("install", 2, "25 s"),
    ]


def test_a_skipped_room_and_one_without_a_time_have_no_span() -> None:
    clock = Clock(20.0, (), {("h", "probe"): 5.0, ("h", "stage"): 9.0})
    spans = host_spans(clock, [result("h", "probe"), result("h", "stage", "skipped"), result("h", "serve")])
    assert [span.room for span in spans] == ["probe"]


def test_a_run_without_a_length_still_has_a_page(tmp_path: Path) -> None:
    folder = Folder(tmp_path / fleets.RUN, [host("a")])
    folder.run.write("run.json", {"run": fleets.RUN, "command": "probe", "started_at": "", "seconds": 0.0})
    folder.results(result("a", "probe", seconds=0.0))
    fleets.end(folder.run)
    text = page.render(folder.run)
    assert "looked at, nothing done" in text
    assert "none was chosen" not in text


def test_phases_are_told_as_points_and_drawn_as_lengths() -> None:
    def serving(name: str, **phases: float) -> HostSummary:
        record = ServeRecord(phases_s=phases)
        return HostSummary(name=name, state="serving", changed=True, serve=record)

    quick = serving("quick", health=10.0, first_token=11.0, first_answer=0.4)
    chart = startup([quick, serving("slow", health=50.0, first_token=52.0), serving("silent")])
    assert chart
    assert (chart.headers, chart.legend) == (("host", "health after", "first token after"), ("health", "first token"))
    assert chart.rows == (("slow", "50 s", "52 s"), ("quick", "10 s", "11 s"))
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"', chart.svg)]
    assert max(widths) == pytest.approx(5 * sorted(widths)[2], rel=0.01)  # 50 s beside 10 s
    assert startup([serving("silent")]) is None


def test_only_the_slowest_of_many_are_drawn_and_all_told(content: Page) -> None:
    chart = next(chart for chart in content.charts if chart.id == "startup")
    assert len(chart.rows) == 97
    assert f"slowest {MOST_DRAWN} of 97" in chart.note
    assert chart.svg.count("<text") < 2 * MOST_DRAWN


def test_attention_is_drawn_from_what_its_checks_saw(content: Page) -> None:
    speed, memory, _ = content.charts
    assert speed.headers == ("batch, length, heads, head size", "flash, ms", "standard, ms")
    assert [row[0] for row in speed.rows] == [
        "(2, 512, 8, 64)",
        "(2, 512, 12, 64)",
        "(2, 2048, 16, 64)",
        "(32, 512, 12, 64)",
    ]
    assert memory.rows[0] == ("128", "70.66 kB", "262.1 kB")
    assert memory.rows[-1] == ("16384", "8.524 MB", "")


def test_every_chart_has_its_numbers(large: Run) -> None:
    text = page.render(large)
    figures = re.findall(r"<figure.*?</figure>", text, re.DOTALL)
    assert figures
    assert all("<tbody>" in figure and "<svg" in figure for figure in figures)


def test_text_of_hosts_is_never_markup(tmp_path: Path) -> None:
    run = fleets.hostile(tmp_path)
    text = page.render(run)
    read = Reader(text)
    assert read.tags.count("script") == 1
    assert not {"img", "iframe", "object", "link"} - {"link"} & set(read.tags)
    assert not read.handlers
    assert all(
        link.startswith(("#", "data:", "facts/", "verify/", "serve/", "findings/")) or "/" not in link
        for link in read.links
    )
    assert not [link for link in read.links if link.lower().startswith(("javascript", "http"))]
    assert fleets.PLANTED in read.words
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_one_script_and_only_that_one_may_run(large: Run) -> None:
    import base64
    import hashlib

    text = page.render(large)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[0]
    allowed = re.findall(r"script-src '(.*?)'", text)
    assert allowed == ["sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()]
    assert "default-src 'none'" in text


def test_no_secret_reaches_the_page(tmp_path: Path) -> None:
    folder = fleets.Fleet(tmp_path / fleets.RUN, [host("a")])
    folder.planned(["a"], CPU_STACK)
    wrong = result(
        "a",
        "serve",
        "failed",
        text="refused: api_key=sk-0123456789abcdef0123",
        evidence=("token: hf_abcdefghijklmnopq",),
    )
    folder.results(wrong)
    line = {"at": STARTED, "kind": "result", "host": "a", "room": "serve", "text": "Bearer abcdefgh12345678"}
    folder.run.path("events.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    text = page.render(folder.run)
    assert "[hidden]" in text
    assert not re.search(r"sk-0123|hf_abcdef|abcdefgh12345678", text)


def test_what_changed_since_green_is_told(tmp_path: Path) -> None:
    for name, version in (("20261119T080000Z", "580.65.06"), (fleets.RUN, "570.86.10")):
        folder = Folder(tmp_path / name, [host("gpu-1"), host("gpu-2")])
        folder.planned(["gpu-1", "gpu-2"], GPU_STACK)
        folder.staged(["gpu-1", "gpu-2"], GPU_STACK)
        for each in ("gpu-1", "gpu-2"):
            folder.green(each, gpus=8)
        known = facts("gpu-2", gpus=8)
        assert known.nvidia
        nvidia = known.nvidia.model_copy(update={"driver_version": version})
        folder.run.write("facts/gpu-2.json", known.model_copy(update={"nvidia": nvidia}))
        fleets.end(folder.run)
    text = page.render(folder.run)
    assert "Since the last green run" in text
    words = Reader(text).words
    assert "driver_version: 580.65.06 -> 570.86.10" in words
    assert words.index("driver_version") < words.index("nothing changed")


def test_the_verdict_is_the_one_that_the_run_gave(large: Run, tmp_path: Path) -> None:
    assert "interrupted" not in page.render(large).partition("<header")[2].partition("</header>")[0]
    folder = Folder(tmp_path / fleets.RUN, [host("a")])
    folder.results(result("a", "probe"))
    assert "interrupted" in page.render(folder.run).partition("<header")[2].partition("</header>")[0]


def test_a_hundred_hosts_with_all_their_figures_stay_small(summary: Summary, large: Run) -> None:
    bound = {"unit": "TFLOPS", "floor": 1.0, "ceiling": None, "source": "data sheet"}

    def measured(index: int) -> tuple[CheckRecord, ...]:
        return tuple(
            CheckRecord.model_validate(
                check(
                    f"speed.kernel{number}",
                    device=f"cuda:{card}",
                    figures=[
                        {"name": f"kernel {number}", "value": 2.0 + fleets.noise(index * 8 + card, number), **bound}
                    ],
                )
            )
            for number in range(20)
            for card in range(8)
        )

    hosts = (host.model_copy(update={"checks": measured(index)}) for index, host in enumerate(summary.hosts))
    text = render(page=view(summary.model_copy(update={"hosts": tuple(hosts)}), list(large.events())))
    assert text.count("kernel 19") > 1
    assert len(text.encode()) < 1_500_000


def test_the_page_is_written_whole_beside_the_records(large: Run) -> None:
    path = page.write(large)
    assert path == large.folder / "summary.html"
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    links = [
        link for link in Reader(path.read_text(encoding="utf-8")).links if not link.startswith(("#", "data:", "http"))
    ]
    assert links
    assert all((large.folder / link).is_file() for link in links)


def test_backticks_become_code_and_an_odd_one_stays() -> None:
    words = environment().filters["words"]
    assert words("port `8000` of `<a>`") == "port <code>8000</code> of <code>&lt;a&gt;</code>"
    assert words("a ` b") == "a ` b"


def test_nothing_of_it_is_imported_by_other_commands() -> None:
    code = (
        "import sys, provision.cli.main, provision.report; print([m for m in ('jinja2', 'pygal') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
