"""Templates of texts that are no HTML."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def text_templates(folder: Path) -> Environment:
    """Return the templates of a folder: nothing is escaped, and an unknown name is an error."""
    return Environment(  # noqa: S701 - no HTML
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
