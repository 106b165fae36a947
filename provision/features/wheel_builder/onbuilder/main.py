"""The commands `builder.pyz facts PYTHON CUDA` and `builder.pyz build FOLDER`; one JSON line an event on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .build_steps import build
from .facts import read_facts
from .process import CancelledError, FailedError, cancel_on_signals, send_event, send_heartbeats


def main() -> int:
    """Return 0 on success, 1 on failure, 130 when cancelled."""
    if sys.argv[1] == "facts":
        sys.stdout.write(json.dumps(read_facts(sys.argv[2], sys.argv[3])) + "\n")
        return 0
    cancel_on_signals()
    send_heartbeats()
    try:
        build(Path(sys.argv[2]))
    except FailedError as failure:
        send_event("failed", text=failure.text, hint=failure.hint)
        return 1
    except CancelledError as reason:
        send_event("cancelled", text=str(reason))
        return 130
    return 0
