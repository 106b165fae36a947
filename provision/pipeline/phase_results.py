"""phases.json: how each phase ended for each host. Each result is made text once, since the file is written with every one."""

from __future__ import annotations

import json

from provision.core.models.records import PhaseName, PhaseResult
from provision.core.redaction import redact, scrub
from provision.core.run_folder import RunFolder, write_atomically


class PhaseResultsFile:
    """What stands in a run's phases.json so far; not safe to use from several threads at once."""

    def __init__(self, run: RunFolder) -> None:
        self._path = run.path("phases.json")
        self._results: dict[str, dict[PhaseName, str]] = {}
        """Lines of JSON without secrets, by host and phase."""
        self._hosts: dict[str, str] = {}
        """The same of each host as one text: of thousands only the one that changes is made anew."""

    def put(self, result: PhaseResult) -> None:
        """Take a result in, in place of an earlier one of the same host and phase; it is with the system when this returns."""
        line = f"    {json.dumps(result.phase)}: {json.dumps(scrub(result.model_dump()))}"
        by_phase = self._results.setdefault(result.host, {})
        by_phase[result.phase] = line
        self._hosts[result.host] = (
            f"  {json.dumps(redact(result.host))}: {{\n" + ",\n".join(by_phase.values()) + "\n  }"
        )
        write_atomically(self._path, "{\n" + ",\n".join(self._hosts.values()) + "\n}\n", durable=False)
