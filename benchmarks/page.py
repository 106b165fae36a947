"""The size of a run's page of a hundred hosts, and the time until Chromium has drawn it.

    python -m benchmarks.page

The page is that of the run in the page's tests, in which three hosts failed. Each drawing uses a new browser
context, so that nothing is cached: `drawn` ends with the frame after the page's load event, `busy` is
the CPU time of the page's own process as Chromium reports it. Chromium itself is started before.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from benchmarks.machine import header, publish, say
from provision.report import page
from tests.report.page import fleets

TIMES = 7
MOST_DRAWN_S = 1.0
MOST_BYTES = 1_500_000
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now() / 1000))))"


def main() -> int:
    result = header("page", ["playwright"])
    program = shutil.which("chromium")
    if program is None:
        say("Chromium is not installed on this machine")
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = fleets.large(Path(folder))
        started = time.process_time()
        written = page.write(run)
        made = time.process_time() - started
        browser = playwright.chromium.launch(executable_path=program)
        result["versions"]["chromium"] = browser.version
        draws = [draw(browser, written) for _ in range(TIMES)]
        browser.close()
        size = written.stat().st_size
        hosts = len(json.loads(run.path("inventory.json").read_bytes())["hosts"])
    drawn = statistics.median(seconds for seconds, _ in draws)
    result |= {
        "hosts": hosts,
        "bytes": size,
        "most_bytes": MOST_BYTES,
        "made_cpu_s": round(made, 3),
        "drawn_s": round(drawn, 3),
        "most_drawn_s": MOST_DRAWN_S,
        "busy_s": round(statistics.median(busy for _, busy in draws), 3),
        "times": TIMES,
    }
    publish(result, "page")
    return 0 if drawn <= MOST_DRAWN_S and size <= MOST_BYTES else 1


def draw(browser: Browser, path: Path) -> tuple[float, float]:
    """Return the seconds from the start of the navigation until the page is drawn, and the CPU seconds of its process."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    tab = context.new_page()
    watch = context.new_cdp_session(tab)
    watch.send("Performance.enable")
    tab.goto(path.as_uri(), wait_until="load")
    seconds: float = tab.evaluate(DRAWN)
    metrics = {metric["name"]: metric["value"] for metric in watch.send("Performance.getMetrics")["metrics"]}
    context.close()
    return seconds, metrics["TaskDuration"]


if __name__ == "__main__":
    sys.exit(main())
