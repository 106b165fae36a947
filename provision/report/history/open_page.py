"""`logs open`: a run's page, written and shown in a browser, or how to see it where there is none."""

from __future__ import annotations

import os
import shlex
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from provision.core.errors import UsageError
from provision.core.run_folder import RunFolder, account
from provision.report import page
from provision.report.history.runs import find
from provision.report.history.show import require_end


def write_and_open(logs: Path, run: str | None = None, *, browser: bool = True) -> tuple[Path, str | None]:
    """Write the page of a run, of the newest by default, and open it; returns its path and what is left to do by hand.

    Raises UsageError when there is no such run, when it still goes on, or when its folder cannot be written.
    """
    folder = find(logs, run)
    require_end(folder)
    try:
        path = page.write(RunFolder(folder.resolve()))
    except OSError as error:
        raise UsageError(
            f"`{folder / page.NAME}` cannot be written: {error.strerror}",
            hint="copy the runs to a folder of yours and name it: FIRSTLIGHT_LOGS=FOLDER ./firstlight logs open",
        ) from None
    if not browser:
        return path, None
    if has_display(os.environ, sys.platform) and webbrowser.open(path.as_uri()):
        return path, None
    return path, by_hand(path, os.environ)


def has_display(environment: Mapping[str, str], platform: str) -> bool:
    """Whether a browser would open where the person sits: with a display, or one named in BROWSER, and not over SSH.

    Without this, Python would start a browser for terminals, or one on a screen in another phase.
    """
    if environment.get("BROWSER"):
        return True
    if platform == "darwin":
        return "SSH_CONNECTION" not in environment
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def by_hand(path: Path, environment: Mapping[str, str]) -> str:
    """How to see a file of a machine without a browser from the machine where one is."""
    # SSH_CONNECTION: address and port of the client, then of this machine, as the client reaches it
    words = environment.get("SSH_CONNECTION", "").split()
    address, port = (words[2], words[3]) if len(words) == 4 else (os.uname().nodename, "22")
    host = f"[{address}]" if ":" in address else address
    copy = ["scp", *(["-P", port] if port != "22" else []), f"{account()}@{host}:{path}", "."]
    return f"no browser here; on your own machine: {shlex.join(copy)} and open {path.name}"
