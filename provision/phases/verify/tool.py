"""The checks as the one file that hosts are sent, verify.pyz."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from provision.core.tables import read_table
from provision.core.zipapp import kept, pack_zipapp

SOURCE = Path(__file__).resolve().parents[3] / "verify"
STAYS_HERE = frozenset(
    {
        "verify/fault_families.py",
        "verify/doctor/text_classifier.py",
        "verify/host_comparison.py",
        "verify/time_limits.py",
    }
)
"""What documents faults, compares hosts, waits for them or guesses by words: no host runs it."""


def build_zipapp(target: Path) -> Path:
    """Write the checks as one file that any Python from 3.10 on runs, unless it is there; the same sources give the same bytes."""
    return kept(target, (path for path in SOURCE.rglob("*") if path.suffix in (".py", ".toml")), zipapp)


@cache
def zipapp() -> bytes:
    """The checks as one file, its tables as JSON: Python 3.10 reads no TOML.

    Releases of zlib may pack differently: a host that two controllers share is then sent the tool anew.
    """
    from verify.doctor.catalog import PACKED_CAUSES, pack  # noqa: PLC0415 - a file that is current is not built again

    entries: dict[str, bytes] = {}
    tables: dict[str, Any] = {}
    for path in sorted(SOURCE.rglob("*")):
        name = f"verify/{path.relative_to(SOURCE).as_posix()}"
        if name in STAYS_HERE:
            continue
        if path.suffix == ".py":
            entries[name] = path.read_bytes()
        elif path.suffix == ".toml" and path.parent.name == "data":
            tables[path.stem] = read_table(path)
    entries["verify/data.json"] = json.dumps(tables, sort_keys=True, separators=(",", ":")).encode()
    entries[f"verify/doctor/{PACKED_CAUSES}"] = pack()
    return pack_zipapp(entries, main="verify.cli:main(sys.argv[1:])")
