"""`forge.pyz survey PYTHON CUDA` and `forge.pyz build FOLDER`; one line of JSON an event on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .process import CancelledError, FailedError, end_on_signals, keep_telling, tell
from .survey import survey
from .work import build


def main() -> int:
    """0 when it went well, 1 when it failed, 130 when it was cancelled."""
    if sys.argv[1] == "survey":
        sys.stdout.write(json.dumps(survey(sys.argv[2], sys.argv[3])) + "\n")
        return 0
    end_on_signals()
    keep_telling()
    try:
        build(Path(sys.argv[2]))
    except FailedError as failure:
        tell("failed", text=failure.text, hint=failure.hint)
        return 1
    except CancelledError as reason:
        tell("cancelled", text=str(reason))
        return 130
    return 0
