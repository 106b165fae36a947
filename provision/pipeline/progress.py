"""How far a large file is, on one line of a terminal; nothing where nobody looks."""

from __future__ import annotations

import sys

from provision.core.formatting import GIB
from verify.printable import printable, unguarded


def report_progress(what: str, done: int, total: int) -> None:
    """Bytes done of all; written over until it is whole."""
    if sys.stderr.isatty() and total:
        end = "\n" if done >= total else ""
        stream = unguarded(sys.stderr)
        stream.write(f"\r{printable(what)} {done / GIB:.1f} of {total / GIB:.1f} GiB{end}")
        stream.flush()
