"""The page as a file: escaping, its one script, secrets, size, links."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from provision.core.models.records import CheckRecord, Summary
from provision.core.run_folder import RunFolder
from provision.report import page
from provision.report.page import environment, render_page
from provision.report.page.view import Page
from tests.report.page import fleets
from tests.report.sample import CPU_STACK, GPU_STACK, STARTED, Folder, facts, host, record, result


class Reader(HTMLParser):
    """Collects the real tags, the text between them, and addresses."""

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


def test_text_of_hosts_is_never_interpreted_as_markup(tmp_path: Path) -> None:
    run = fleets.hostile(tmp_path)
    text = page.render(run)
    read = Reader(text)
    assert read.tags.count("script") == 1
    assert not {"img", "iframe", "object"} & set(read.tags)
    assert not read.handlers
    assert all(link.startswith(("#", "data:")) for link in read.links)
    assert fleets.PLANTED in read.words
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.slow
def test_only_the_pages_own_script_may_run(large: RunFolder) -> None:
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
    line = {"at": STARTED, "kind": "result", "host": "a", "phase": "serve", "text": "Bearer abcdefgh12345678"}
    folder.run.path("events.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    text = page.render(folder.run)
    assert "[hidden]" in text
    assert not re.search(r"sk-0123|hf_abcdef|abcdefgh12345678", text)


def test_changes_since_the_last_green_run_are_shown(tmp_path: Path) -> None:
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


def test_a_hundred_hosts_with_all_their_figures_stay_small(summary: Summary, large: RunFolder) -> None:
    bound = {"unit": "TFLOPS", "floor": 1.0, "source": "data sheet"}

    def measured(index: int) -> tuple[CheckRecord, ...]:
        return tuple(
            record(
                f"speed.kernel{number}",
                device=f"cuda:{card}",
                figures=[{"name": f"kernel {number}", "value": 2.0 + fleets.noise(index * 8 + card, number), **bound}],
            )
            for number in range(20)
            for card in range(8)
        )

    hosts = (host.model_copy(update={"checks": measured(index)}) for index, host in enumerate(summary.hosts))
    text = render_page(page=Page(summary.model_copy(update={"hosts": tuple(hosts)})))
    assert text.count("kernel 19") > 1
    assert len(text.encode()) < 1_500_000


def test_a_mailed_page_has_no_link_that_leads_nowhere(large: RunFolder) -> None:
    path = page.write(large)
    assert path == large.folder / "summary.html"
    text = path.read_text(encoding="utf-8")
    assert text.endswith("</html>\n")
    inside = {f"#{id_}" for id_ in re.findall(r' id="([^"]+)"', text)}
    links = set(Reader(text).links) - {"data:,"}
    assert {link for link in links if link.startswith("#")} <= inside
    assert all(link.startswith(("#", "https://")) for link in links)


def test_backticks_become_code_and_a_single_one_stays() -> None:
    words = environment().filters["words"]
    assert words("port `8000` of `<a>`") == "port <code>8000</code> of <code>&lt;a&gt;</code>"
    assert words("a ` b") == "a ` b"
