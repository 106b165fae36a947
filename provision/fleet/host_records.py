"""What this controller keeps of single hosts: LOGS/KIND/HOST.json, one record each."""

import json
from pathlib import Path
from typing import TypeVar

from provision.core.files import write_atomically
from provision.core.json_text import parse_object
from provision.core.models.base import Record
from provision.core.models.inventory import Host
from provision.core.redaction import scrub


class HostRecord(Record):
    """A record of one host."""

    address: str
    """Where the host was reached: a host of another inventory may have the same name."""


RecordT = TypeVar("RecordT", bound=HostRecord)


def record_file(folder: Path, host: Host) -> Path:
    """Return the file of a host in the folder of one kind of record."""
    return folder / f"{host.name}.json"


def put_record(folder: Path, host: Host, record: HostRecord) -> None:
    """Keep the record of a host; after a power failure the old or the new one is there."""
    write_atomically(record_file(folder, host), json.dumps(scrub(record.model_dump(mode="json")), indent=2) + "\n")


def get_record(folder: Path, host: Host, model: type[RecordT]) -> RecordT | None:
    """Return the record of a host; None without one, and where it is that of a host at another address. Raises OSError, ValueError."""
    try:
        content = record_file(folder, host).read_bytes()
    except FileNotFoundError:
        return None
    record = model.model_validate(parse_object(content))
    return record if record.address == address_of(host) else None


def address_of(host: Host) -> str:
    """Return address and port at which a host is reached; `local` for this machine."""
    where = host.connection
    return "local" if where.kind == "local" else f"{where.address or host.name}:{where.port}"
