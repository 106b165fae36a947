"""The template's side: everything that is printed is cleaned and escaped, and the one script is known by its digest."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from provision.report.layout import number
from provision.report.page.view import Page
from verify.printable import printable

TEMPLATES = Path(__file__).parent / "templates"


def render(page: Page) -> str:
    """Render the whole page.

    Its Content-Security-Policy blocks all loading and all scripts but ours, so host text that escaped the escaping would still
    be plain text.
    """
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"script": Markup(script), "style": Markup(style)}  # noqa: S704 - files of this folder
    pages = environment()
    added = {
        section.id: Markup(pages.from_string(section.template.read_text(encoding="utf-8")).render(section.values))  # noqa: S704 - rendered with escaping
        for section in page.added
    }
    return pages.get_template("page.html").render(**own, script_digest=digest, page=page, added=added)


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
    made.filters["number"] = number
    made.filters["words"] = _words
    made.filters["web"] = _web
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
