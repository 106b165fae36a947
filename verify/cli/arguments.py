"""Argument parser whose usage errors exit with 64, because 2 means that a check failed."""

import argparse
import sys
from typing import NoReturn

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
