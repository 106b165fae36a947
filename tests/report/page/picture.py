"""Draws the pictures of a run's page in the guide: `python -m tests.report.page.picture docs/images`."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from provision.report import page
from tests.report.page import fleets

WIDTH, HEIGHT = 1280, 1480


def draw(target: Path) -> None:
    """Draw a hundred hosts of which three failed: the top of the page down to the first hosts, and the measurements."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        written = page.write(fleets.large(Path(folder)))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        seen = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        seen.goto(written.as_uri())
        seen.screenshot(path=target / "run-page.png")
        seen.locator("#measured").screenshot(path=target / "run-page-measured.png")
        browser.close()


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
