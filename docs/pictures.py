"""Draws the pictures of the guides with Chromium.

    .venv/bin/python -m docs.pictures alerts                    # Prometheus' page of alerts; needs root, apt and Debian's packages
    .venv/bin/python -m docs.pictures runs                      # pages of made-up runs: one GPU host, and a hundred hosts

The alerts are those of a real Prometheus of Debian's package with the files of a monitoring host; it reads two stub hosts, one of which loses
a GPU, its vLLM and its disk.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from provision.features.monitoring import unit_sets
from provision.features.monitoring.targets import Target
from provision.report import page as run_page
from tests.features.monitoring.hosts import host
from tests.features.monitoring.running import ADDRESS, offering, prometheus
from tests.report.page import fleets

IMAGES = Path(__file__).with_name("images")
WIDTH = 1100
WEB = (
    "prometheus",
    "libjs-bootstrap4",
    "libjs-jquery",
    "libjs-popper.js",
    "fonts-glyphicons-halflings",
)
"""Debian's packages with the files of Prometheus' classic web interface."""
SEPARATE = 'mount -t overlay overlay -o "lowerdir=$1/usr/share:/usr/share" /usr/share && shift && exec "$@"'
SOUND: dict[str, float] = {
    "firstlight_cards": 8,
    "firstlight_cards_on_bus": 8,
    'firstlight_card_fabric_registered{card="0"}': 1,
    'firstlight_card_ecc_uncorrected_errors_total{card="0"}': 0,
    'node_filesystem_avail_bytes{mountpoint="/",fstype="ext4"}': 50,
    'node_filesystem_size_bytes{mountpoint="/",fstype="ext4"}': 100,
    'node_filesystem_readonly{mountpoint="/",fstype="ext4"}': 0,
}
"""Metrics of a host's node exporter."""
BROKEN: dict[str, float] = {
    "firstlight_cards": 7,
    'firstlight_card_fabric_registered{card="0"}': 0,
    'firstlight_card_ecc_uncorrected_errors_total{card="0"}': 1,
    'node_filesystem_avail_bytes{mountpoint="/",fstype="ext4"}': 4,
}
"""What a host that breaks down shows; each value is an alert."""
FIRING = len(BROKEN) + 1
"""One more alert is that its vLLM is out."""


@contextmanager
def browser_page(height: int) -> Iterator[Page]:
    """Return an empty page of Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        yield browser.new_page(viewport={"width": WIDTH, "height": height}, color_scheme="light")
        browser.close()


def draw_alerts() -> None:
    """Start over in a mount namespace of its own, where the packages' files lie as if they were installed."""
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["apt-get", "-qq", "download", *WEB], cwd=name, check=True)
        for archive in Path(name).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, name], check=True)
        again = [sys.executable, "-m", "docs.pictures", "alerts-here"]
        subprocess.run(["unshare", "--mount", "sh", "-c", SEPARATE, "sh", name, *again], check=True)


def metrics(values: Mapping[str, float]) -> str:
    """Return the text that Prometheus reads."""
    return "".join(f"{name} {value}\n" for name, value in values.items())


def draw_alerts_here() -> None:
    """Let a stub host break down, and draw the alerts when they fire."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        offers, targets = [], []
        for name in ("gpu-1", "gpu-2"):
            node, vllm = {"/metrics": metrics(SOUND)}, {"/metrics": "vllm:num_requests_running 0\n"}
            targets.append(Target("node", name, stack.enter_context(offering(node))))
            targets.append(Target("vllm", name, stack.enter_context(offering(vllm))))
            offers.append((node, vllm))
        monitor = host("mon", "monitoring", address=ADDRESS, monitoring_bind=ADDRESS)
        files = unit_sets.server_set(monitor, targets, folder, Path("inventory/mysite")).files
        server = stack.enter_context(prometheus(Path(folder), files))
        while len(server.query("up == 1")) < len(targets):
            time.sleep(1)
        node, vllm = offers[0]
        node["/metrics"] = metrics(SOUND | BROKEN)
        vllm.clear()
        while len(server.query('ALERTS{alertstate="firing"}')) < FIRING:
            time.sleep(1)
        with browser_page(640) as seen:
            seen.goto(f"http://{server.at}/classic/alerts")
            seen.get_by_text("Inactive (").click()
            seen.get_by_text("CardLost").first.click()
            seen.screenshot(path=IMAGES / "prometheus-alerts.png")


def draw_runs() -> None:
    """Draw the pages of made-up runs: one GPU host and what was measured there, and the top of a hundred hosts' page."""
    with tempfile.TemporaryDirectory() as name, browser_page(1320) as seen:
        for picture, run in (("run-page", fleets.large(Path(name))), ("run-page-green", fleets.one_gpu(Path(name)))):
            seen.goto(run_page.write(run).as_uri())
            seen.screenshot(path=IMAGES / f"{picture}.png")
        seen.evaluate(
            "document.querySelectorAll('main > :not(#gpus, #serving, #measured)').forEach((node) => node.remove())"
        )
        seen.locator("main").screenshot(path=IMAGES / "run-page-measured.png")


def main() -> int:
    match sys.argv[1:]:
        case ["alerts"]:
            draw_alerts()
        case ["alerts-here"]:
            draw_alerts_here()
        case ["runs"]:
            draw_runs()
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
