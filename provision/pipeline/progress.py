"""Progress line of a large file; silent without a terminal."""

from __future__ import annotations

import sys

from provision.core.formatting import GIB
from verify.printable import printable, unguarded


def report_progress(what: str, done: int, total: int) -> None:
    """Print the bytes done of all, over the line before."""
    if sys.stderr.isatty() and total:
        end = "\n" if done >= total else ""
        stream = unguarded(sys.stderr)
        stream.write(f"\r{printable(what)} {done / GIB:.1f} of {total / GIB:.1f} GiB{end}")
        stream.flush()
