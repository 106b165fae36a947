"""The page in real Chromium: it loads nothing, reports no error, filters by keyboard, and fits all widths, colour schemes and paper."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from provision.report import page as run_page
from tests.report.page import fleets
from tests.report.sample import CPU_STACK, Folder, host

if TYPE_CHECKING:  # loading it takes long, and only the browser needs it
    from playwright.sync_api import Browser, ConsoleMessage, Page, Request

WIDTHS = (390, 1280)
SHORT = 24
"""The number of hosts that are shown until all are requested."""

CONTRASTS = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
  const behind = (node) => {
    const own = [];
    for (let at = node; at; at = at.parentElement) own.push(rgba(getComputedStyle(at).backgroundColor));
    return own.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const words = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!words || !node.checkVisibility() || node.closest("script, style")) continue;
    const style = getComputedStyle(node), back = behind(node);
    const front = over(rgba(node.closest("svg") ? style.fill : style.color), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) low.push(`${node.tagName}.${node.className}: ${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 40)}`);
  }
  return [...new Set(low)];
}"""
"""Find texts with less contrast than WCAG 2.2 requires (1.4.3: 4.5 to 1)."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None and not os.environ.get("FIRSTLIGHT_REQUIRE_FLEET"):
        pytest.skip("Chromium is not installed on this machine: the page is NOT TESTED")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of one green host, of a hundred hosts of which some failed, and of two hostile hosts."""
    one = Folder(tmp_path_factory.mktemp("one") / fleets.RUN, [host("localhost", local=True)])
    one.planned(["localhost"], CPU_STACK)
    one.green("localhost")
    fleets.end(one.run)
    runs = {
        "one": one.run,
        "large": fleets.large(tmp_path_factory.mktemp("large")),
        "hostile": fleets.hostile(tmp_path_factory.mktemp("hostile")),
    }
    return {name: run_page.write(run) for name, run in runs.items()}


class Visit:
    """An open page, with all its requests and error messages."""

    def __init__(self, browser: Browser, path: Path, *, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", self._requested)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.goto(path.as_uri())

    def _requested(self, request: Request) -> None:
        if not request.url.startswith("data:"):
            self.requests.append(request.url)

    def _said(self, message: ConsoleMessage) -> None:
        self.complaints.append(message.text)

    def open_all(self) -> None:
        """Unfold everything."""
        self.page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")

    def shown(self) -> list[str]:
        """Return the names of the hosts whose lines are visible."""
        names: list[str] = self.page.eval_on_selector_all(
            ".host", "nodes => nodes.filter((node) => node.checkVisibility()).map((node) => node.dataset.name)"
        )
        return names


@pytest.fixture
def large(browser: Browser, pages: dict[str, Path]) -> Iterator[Visit]:
    visit = Visit(browser, pages["large"])
    yield visit
    visit.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one", "large", "hostile"])
def test_the_page_loads_nothing_and_fits(browser: Browser, pages: dict[str, Path], name: str, width: int) -> None:
    visit = Visit(browser, pages[name], width=width)
    assert visit.requests == [pages[name].as_uri()]
    visit.open_all()
    wide, seen = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide == seen == width
    assert not visit.complaints
    assert "planted" not in visit.page.title()
    visit.context.close()


@pytest.mark.parametrize("name", ["one", "large"])
def test_every_link_of_the_navigation_is_seen_on_a_phone(browser: Browser, pages: dict[str, Path], name: str) -> None:
    visit = Visit(browser, pages[name], width=WIDTHS[0])
    ends = visit.page.eval_on_selector_all("nav a", "nodes => nodes.map((node) => node.getBoundingClientRect().right)")
    assert len(ends) > 3
    assert max(ends) <= WIDTHS[0]
    visit.context.close()


def test_a_page_of_a_hundred_hosts_is_fast(large: Visit) -> None:
    assert large.page.evaluate("document.querySelectorAll('*').length") < 20_000
    assert large.page.locator(".host").count() == large.page.locator(".map a").count() == 100
    assert len(large.shown()) == SHORT
    assert large.shown()[:3] == ["gpu-017", "gpu-042", "gpu-058"]


def test_arrow_keys_select_a_state(large: Visit) -> None:
    large.page.focus(".filter input[type=radio]")
    large.page.keyboard.press("ArrowRight")
    assert large.shown() == ["gpu-017"]
    large.page.keyboard.press("ArrowRight")
    assert large.shown() == ["gpu-042", "gpu-058"]
    assert large.page.inner_text("output") == "2 of 100 hosts"
    assert large.page.locator(".map a.out").count() == 98


def test_a_key_starts_the_search_for_a_name(large: Visit) -> None:
    large.page.keyboard.press("/")
    large.page.keyboard.type("CPU-")
    assert large.shown() == ["cpu-1", "cpu-2", "cpu-3", "cpu-4"]
    assert large.page.inner_text("output") == "4 of 100 hosts"
    large.page.keyboard.type("/")
    assert large.shown() == []


def test_the_filters_for_state_and_name_combine(large: Visit) -> None:
    large.page.get_by_label("Name").fill("gpu-05")
    large.page.get_by_label("failed 2").check(force=True)
    assert large.shown() == ["gpu-058"]
    large.page.get_by_label("with warnings 1").check(force=True)
    assert large.shown() == []


def test_all_hosts_are_shown_on_request_without_scrolling(large: Visit) -> None:
    large.page.get_by_role("button", name="Show all 100 hosts").press("Enter")
    assert len(large.shown()) == 100
    focused = large.page.evaluate("document.activeElement.closest('.host').dataset.name")
    assert focused == large.shown()[SHORT]
    assert not large.page.locator(".more").is_visible()


def test_a_host_opens_by_keyboard(large: Visit) -> None:
    summary = large.page.locator(".host summary").first
    summary.focus()
    large.page.keyboard.press("Enter")
    assert large.page.locator(".host .phases").first.is_visible()
    assert "did not answer within 10 s" in large.page.inner_text(".host .inside")


def test_the_map_leads_to_a_host_that_is_not_shown_yet(large: Visit) -> None:
    large.page.get_by_label("Name").fill("cpu")
    large.page.evaluate("document.querySelector(\".map a[data-name='gpu-090']\").click()")
    large.page.wait_for_function("document.querySelector('#host-90').open")
    assert large.page.locator("#host-90 .phases").is_visible()
    assert large.page.inner_text("output") == "100 of 100 hosts"


def test_the_tab_key_reaches_everything(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["one"])
    visit.open_all()
    reached = []
    for _ in range(200):
        visit.page.keyboard.press("Tab")
        where = visit.page.evaluate(
            "[document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
        )
        if where[0] == "BODY":
            break
        reached.append(where)
    assert {"A", "SUMMARY", "DIV"} <= {tag for tag, _ in reached}
    assert all(outline != "none" for _, outline in reached)
    visit.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["one", "large"])
def test_text_has_enough_contrast_with_its_background(
    browser: Browser, pages: dict[str, Path], name: str, scheme: Literal["light", "dark"]
) -> None:
    visit = Visit(browser, pages[name], color_scheme=scheme)
    visit.open_all()
    assert visit.page.evaluate(CONTRASTS) == []
    visit.context.close()


def test_dark_and_light_follow_the_system(large: Visit) -> None:
    def paper() -> str:
        colour: str = large.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        return colour

    large.page.emulate_media(color_scheme="light")
    light = paper()
    large.page.emulate_media(color_scheme="dark")
    assert paper() != light
    large.page.emulate_media(color_scheme="dark", media="print")
    assert paper() == "rgb(255, 255, 255)"


def test_the_printed_page_has_all_hosts_and_no_controls(large: Visit) -> None:
    large.page.emulate_media(media="print")
    large.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert len(large.shown()) == 100
    assert not large.page.locator("nav, .filter, .more").filter(visible=True).count()
    large.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert len(large.shown()) == SHORT
    assert large.page.pdf(format="A4").startswith(b"%PDF-")


def test_without_scripts_the_page_is_complete(browser: Browser, pages: dict[str, Path]) -> None:
    visit = Visit(browser, pages["large"], java_script_enabled=False)
    assert visit.page.locator(".host").filter(visible=True).count() == 100
    assert not visit.page.locator(".filter").is_visible()
    visit.context.close()
