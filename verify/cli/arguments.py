"""Argument parser whose usage errors exit with 64, because 2 means that a check failed, and the file that an option names."""

import argparse
import math
import sys
from pathlib import Path
from typing import NoReturn

from verify.files import write_atomically
from verify.records import USAGE_EXIT


class Parser(argparse.ArgumentParser):
    """Create a parser that does not accept abbreviated options; `hint` appears below an error."""

    def __init__(self, *, prog: str, description: str, epilog: str, hint: str) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)
        self.hint = hint

    def error(self, message: str) -> NoReturn:
        """Print an error and exit."""
        self.print_usage(sys.stderr)
        self.exit(USAGE_EXIT, f"error: {message}\n\nhint: {self.hint}\n")

    def add_prefix_and_json(self) -> None:
        """Add the options for the installation and for the whole document."""
        self.add_argument("--prefix", metavar="DIR", type=Path, help="installation (default: this environment's)")
        self.add_argument("--json", action="store_true", help="print the whole document on stdout")


LIVE, ENVIRONMENTS = "current", "envs"
"""Names in an installation: the link to the live environment, and the folder of all."""


def above_zero(text: str) -> float:
    """Return a number above zero. Raises ArgumentTypeError where the text is none."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above zero")
    return number


def count(text: str) -> int:
    """Return a whole number above zero. Raises ArgumentTypeError where the text is none."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def prefix_of(given: Path | None) -> Path:
    """Return the installation that the user named, by default this environment's, by the name under which it was called.

    A link in that name stays: what an installation records of its files and its server has the link, too.
    """
    called = Path(sys.prefix)
    if given or called.name == LIVE:
        return (given or called.parent).absolute()
    return (called if called.parent.name == ENVIRONMENTS else called.resolve()).parent.parent


def keep(path: Path | None, content: str) -> bool:
    """Write a file if requested; print an error and return False if that fails."""
    try:
        if path:
            write_atomically(path, content)
    except OSError as error:
        sys.stderr.write(f"error: {path} cannot be written: {error.strerror}\n")
        return False
    return True
