"""The byte code that was compiled when an environment was built, and whether a file of byte code stands for its source."""

from __future__ import annotations

import fcntl
import importlib.util
import marshal
import warnings
from pathlib import Path
from typing import Literal

LIST = "bytecode.txt"
"""In the environment's folder: written when all has been compiled."""
LOCK = ".compiling"
"""Next to it: whoever compiles holds it."""
HEADER_BYTES = 16


def listing(home: Path) -> Literal["there", "under way", "absent"]:
    """How the list of an environment's byte code stands: the environment is in use before it is compiled."""
    if (home / LIST).exists():
        return "there"
    try:
        with (home / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "under way"
    except OSError:
        pass
    # It may have been written in between.
    return "there" if (home / LIST).exists() else "absent"


def stands_for_source(path: str) -> bool:
    """Whether a file of byte code holds just what this Python makes of the source next to it.

    Marshalled bytes of one source differ from run to run; the code that they hold does not.
    """
    try:
        source = Path(importlib.util.source_from_cache(path))
        content = Path(path).read_bytes()
        if content[:4] != importlib.util.MAGIC_NUMBER:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = compile(source.read_bytes(), str(source), "exec", dont_inherit=True)
        return bool(marshal.loads(content[HEADER_BYTES:]) == expected)  # noqa: S302 - in a process of its own; never run
    except (OSError, ValueError, EOFError, TypeError, SyntaxError):
        return False
