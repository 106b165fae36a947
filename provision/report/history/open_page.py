"""`logs open`: writes a run's page and opens it in a browser, or explains how to see it elsewhere."""

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
    """Write the page of a run (default: the newest) and open it.

    Returns:
        The path, and what remains to be done by hand.

    Raises:
        UsageError: There is no such run, it is still running, or its folder cannot be written.
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
    """Return whether a browser would open on the user's screen: a display or BROWSER is set, and this is no SSH session.

    Python alone would start a browser in the terminal, or on the screen of a remote machine.
    """
    if environment.get("BROWSER"):
        return True
    if platform == "darwin":
        return "SSH_CONNECTION" not in environment
    return bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))


def by_hand(path: Path, environment: Mapping[str, str]) -> str:
    """Explain how to copy the page to a machine with a browser."""
    # SSH_CONNECTION: address and port of the client, then of this machine as the client sees it
    words = environment.get("SSH_CONNECTION", "").split()
    address, port = (words[2], words[3]) if len(words) == 4 else (os.uname().nodename, "22")
    host = f"[{address}]" if ":" in address else address
    copy = ["scp", *(["-P", port] if port != "22" else []), f"{account()}@{host}:{path}", "."]
    return f"no browser here; on your own machine: {shlex.join(copy)} and open {path.name}"
