"""rooms.json as it is written with every result."""

from __future__ import annotations

import json
from pathlib import Path

from provision.core.models.records import RoomName, RoomResult
from provision.core.redaction import MASK
from provision.core.run_folder import Run
from provision.pipeline.phase_results import RoomsFile


def test_the_newest_result_of_each_room_is_in_it_without_secrets(tmp_path: Path) -> None:
    run = Run.create(tmp_path, command="test")
    rooms = RoomsFile(run)
    steps: list[tuple[str, RoomName, str]] = [
        ("a", "probe", "first"),
        ('b "quoted"', "probe", "HF_TOKEN=hf_abcdefghijklmnop"),
        ("a", "plan", "x"),
        ("a", "probe", "again"),
    ]
    for host, room, text in steps:
        rooms.put(RoomResult(host=host, room=room, status="ok", text=text))
    kept = json.loads(run.path("rooms.json").read_bytes())
    told = {host: {room: entry["text"] for room, entry in by_room.items()} for host, by_room in kept.items()}
    assert told == {"a": {"probe": "again", "plan": "x"}, 'b "quoted"': {"probe": f"HF_TOKEN={MASK}"}}
    RoomResult.model_validate(kept["a"]["plan"])
