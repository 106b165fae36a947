"""rooms.json: how each room ended for each host. Each result is made text once, since the file is written with every one."""

from __future__ import annotations

import json

from provision.core.models.records import RoomName, RoomResult
from provision.core.redaction import redact, scrub
from provision.core.run_folder import Run, write_atomically


class RoomsFile:
    """What stands in a run's rooms.json so far; not safe to use from several threads at once."""

    def __init__(self, run: Run) -> None:
        self._path = run.path("rooms.json")
        self._results: dict[str, dict[RoomName, str]] = {}
        """Lines of JSON without secrets, by host and room."""
        self._hosts: dict[str, str] = {}
        """The same of each host as one text: of thousands only the one that changes is made anew."""

    def put(self, result: RoomResult) -> None:
        """Take a result in, in place of an earlier one of the same host and room; it is with the system when this returns."""
        line = f"    {json.dumps(result.room)}: {json.dumps(scrub(result.model_dump()))}"
        by_room = self._results.setdefault(result.host, {})
        by_room[result.room] = line
        self._hosts[result.host] = f"  {json.dumps(redact(result.host))}: {{\n" + ",\n".join(by_room.values()) + "\n  }"
        write_atomically(self._path, "{\n" + ",\n".join(self._hosts.values()) + "\n}\n", durable=False)
