"""Byte code that was compiled when an environment was built, and its comparison with the source."""

import fcntl
import importlib.util
import marshal
import warnings
from pathlib import Path
from typing import Literal

LIST = "bytecode.txt"
"""In the environment's folder; written when everything has been compiled."""
LOCK = ".compiling"
"""Next to it; locked by the process that compiles."""
HEADER_BYTES = 16


def listing(home: Path) -> Literal["there", "under way", "absent"]:
    """Return the state of an environment's byte code list: an environment is in use before it is compiled."""
    if (home / LIST).exists():
        return "there"
    try:
        with (home / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "under way"
    except OSError:
        pass
    # It may have been written since.
    return "there" if (home / LIST).exists() else "absent"


def stands_for_source(path: str) -> bool:
    """Return whether a file of byte code equals what this Python compiles from its source.

    The marshalled bytes of a source vary between runs, its code objects do not.
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
