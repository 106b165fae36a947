"""phases.json: how each phase ended for each host.

The file is written with every result. With many results it would be written thousands of times as a whole: then it is written when a
part of its results is new, and at the end of each phase. events.jsonl has every result at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from provision.core.files import write_atomically
from provision.core.json_text import indented
from provision.core.redaction import redact, scrub
from provision.core.run_folder import RunFolder

if TYPE_CHECKING:
    from provision.core.models.records import PhaseName, PhaseResult

ALWAYS = 32
"""Up to this number of results the file is written with each."""
NEW_SHARE = 16
"""Of more results, one in this many may be missing from the file."""


class PhaseResultsFile:
    """The phases.json of a run. Not thread-safe."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path("phases.json")
        self._results: dict[str, dict[PhaseName, Any]] = {}
        """JSON values without secrets, by host and phase."""
        self._number = self._new = 0
        """How many results were put, and how many of them are not in the file."""

    def put(self, result: PhaseResult) -> None:
        """Add a result, in place of an earlier one of the same host and phase."""
        self._results.setdefault(redact(result.host), {})[result.phase] = scrub(result.model_dump(mode="json"))
        self._number += 1
        self._new += 1
        if self._number <= ALWAYS or self._new * NEW_SHARE >= self._number:
            self.write()

    def write(self) -> None:
        """Write the file, where a result is not in it."""
        if self._new:
            self._new = 0
            write_atomically(self._path, indented(self._results) + "\n", durable=False)
