"""rooms.json: how each room ended for each host. Each result is made text once, since the file is written with every one."""

from __future__ import annotations

import json

from provision.models.records import RoomName, RoomResult
from provision.redact import redact, scrub
from provision.run import Run, write_atomically


class RoomsFile:
    """What stands in a run's rooms.json so far; not safe to use from several threads at once."""

    def __init__(self, run: Run) -> None:
        self._path = run.path("rooms.json")
        self._results: dict[str, dict[RoomName, str]] = {}
        """Lines of JSON without secrets, by host and room."""

    def put(self, result: RoomResult) -> None:
        """Take a result in, in place of an earlier one of the same host and room; it is with the system when this returns."""
        line = f"    {json.dumps(result.room)}: {json.dumps(scrub(result.model_dump()))}"
        self._results.setdefault(result.host, {})[result.room] = line
        hosts = (
            f"  {json.dumps(redact(host))}: {{\n" + ",\n".join(rooms.values()) + "\n  }"
            for host, rooms in self._results.items()
        )
        write_atomically(self._path, "{\n" + ",\n".join(hosts) + "\n}\n", durable=False)
