"""The question before a host is changed."""

from __future__ import annotations

import sys


def consent(what: str) -> bool:
    """Ask on standard error; only a yes is one, and where standard input is at its end there is none.

    Raises KeyboardInterrupt when the person presses Ctrl-C.
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
