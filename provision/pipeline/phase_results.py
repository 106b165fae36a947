"""phases.json: how each phase ended for each host. The file is written with every result, so each is rendered only once."""

from __future__ import annotations

import json

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import redact, scrub
from provision.core.run_folder import RunFolder, write_atomically


class PhaseResultsFile:
    """The phases.json of a run. Not thread-safe."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path("phases.json")
        self._results: dict[str, dict[PhaseName, str]] = {}
        """Lines of JSON without secrets, by host and phase."""
        self._hosts: dict[str, str] = {}
        """The text of each host: of thousands only the one that changes is rendered."""

    def put(self, result: PhaseResult) -> None:
        """Add a result, in place of an earlier one of the same host and phase, and write the file."""
        line = f"    {json.dumps(result.phase)}: {json.dumps(scrub(result.model_dump()))}"
        by_phase = self._results.setdefault(result.host, {})
        by_phase[result.phase] = line
        self._hosts[result.host] = (
            f"  {json.dumps(redact(result.host))}: {{\n" + ",\n".join(by_phase.values()) + "\n  }"
        )
        write_atomically(self._path, "{\n" + ",\n".join(self._hosts.values()) + "\n}\n", durable=False)
