"""Page of a run: one self-contained HTML file (docs/guides/reading-a-run.md), written, and opened in a browser.

All output of its templates is cleaned and escaped, and its one script is known by its digest.
"""

import base64
import hashlib
import os
import shlex
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from provision.core.errors import UsageError
from provision.core.files import write_atomically
from provision.core.folders import as_typed
from provision.core.models.records import Summary
from provision.core.run_folder import RunFolder, account
from provision.report import summarise
from provision.report.difference import since_green
from provision.report.difference.text import sentence
from provision.report.history.runs import find
from provision.report.history.show import require_end
from provision.report.layout import duration, number
from provision.report.page.hosts import evidence_lines
from provision.report.page.view import Page
from provision.report.wording import failures
from verify.printable import printable

NAME = "summary.html"
TEMPLATES = Path(__file__).parent / "templates"


def write(run: RunFolder) -> Path:
    """Write the page into the run's folder atomically, from the run's files, also for a killed run, and return its path.

    Raises:
        OSError: The folder cannot be written.
    """
    path = run.path(NAME)
    write_atomically(path, render(run))
    return path


def render(run: RunFolder) -> str:
    """Return the page's text without secrets; earlier runs in the same log folder are used for the comparison."""
    try:
        summary = Summary.model_validate_json(run.path("summary.json").read_bytes())
    except (OSError, ValueError):  # the run was killed, or belongs to another release
        summary = summarise(run, interrupted=not run.path("summary.json").exists())
    names = [host.name for host in summary.hosts]
    return render_page(Page(summary, changed=since_green(run.logs, run.name, names)))


def render_page(page: Page) -> str:
    """Render the whole page.

    Its Content-Security-Policy blocks all loading and all scripts but ours, so host text that escaped the escaping would still
    be plain text.
    """
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": Markup(script), "style": Markup(style)}  # noqa: S704 - files of this folder
    pages = environment()
    return as_typed(pages.get_template("page.html").render(**own, script_digest=digest, page=page))


def environment() -> jinja2.Environment:
    """Escapes all output, and rejects unknown names."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own = {
        "failures": failures,
        "sentence": sentence,
        "evidence_lines": evidence_lines,
        "number": number,
        "duration": duration,
    }
    made.filters |= own | {"words": _words, "web": _web}
    return made


def _printable(value: Any) -> Any:
    """Text of a host without terminal commands and characters that turn the direction of what follows."""
    if isinstance(value, Markup):
        return value
    return "" if value is None else printable(value) if isinstance(value, str) else value


def _words(text: str | None) -> Markup:
    """Return a sentence with parts in backticks as code."""
    parts = [escape(part) for part in printable(text or "").split("`")]
    if len(parts) % 2 == 0:
        return Markup("`").join(parts)
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if index % 2 else part for index, part in enumerate(parts))


def _web(text: str | None) -> str | None:
    """An address that may become a link: of the web, nothing that runs."""
    return text if text and text.startswith(("https://", "http://")) and not any(map(str.isspace, text)) else None


def write_and_open(logs: Path, run: str | None = None, *, browser: bool = True) -> tuple[Path, str | None]:
    """Write the page of a run (default: the newest) and open it. Return its path, and what remains to be done by hand.

    Raises:
        UsageError: There is no such run, it is still running, or its folder cannot be written.
    """
    folder = find(logs, run)
    require_end(folder)
    try:
        path = write(RunFolder(folder.resolve()))
    except OSError as error:
        raise UsageError(
            f"`{folder / NAME}` cannot be written: {error.strerror}",
            hint="copy the runs to a folder of yours and name it: FIRSTLIGHT_LOGS=FOLDER ./firstlight logs open",
        ) from None
    if not browser:
        return path, None
    if has_display(os.environ) and webbrowser.open(path.as_uri()):
        return path, None
    return path, by_hand(path, os.environ)


def has_display(environment: Mapping[str, str]) -> bool:
    """Return whether a browser would open on the user's screen: a display or BROWSER is set.

    Python alone would start a browser in the terminal, or on the screen of a remote machine.
    """
    return any(environment.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def by_hand(path: Path, environment: Mapping[str, str]) -> str:
    """Explain how to copy the page to a machine with a browser."""
    # SSH_CONNECTION: address and port of the client, then of this machine as the client sees it
    words = environment.get("SSH_CONNECTION", "").split()
    address, port = (words[2], words[3]) if len(words) == 4 else (os.uname().nodename, "22")
    host = f"[{address}]" if ":" in address else address
    copy = ["scp", *(["-P", port] if port != "22" else []), f"{account()}@{host}:{path}", "."]
    return f"no browser here; on your own machine: {shlex.join(copy)} and open {path.name}"
