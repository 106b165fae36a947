"""Asks for consent before a host is changed."""

from __future__ import annotations

import sys


def consent(what: str) -> bool:
    """Ask on standard error, and return whether the answer is yes; the end of standard input means no.

    Raises:
        KeyboardInterrupt: The person pressed Ctrl-C.
    """
    sys.stderr.write(f"{what} [y/N]: ")
    sys.stderr.flush()
    try:
        answer = sys.stdin.readline()
    except BaseException:
        sys.stderr.write("\n")
        raise
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
