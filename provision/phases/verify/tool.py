"""The file verify.pyz, which contains the checks."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from provision.core.files import files_below
from provision.core.folders import product_path
from provision.core.zipapp import kept, pack_zipapp
from verify.doctor.catalog import PACKED_CAUSES, pack

SOURCE = product_path("verify")
STAYS_HERE = frozenset(
    {
        "verify/doctor/text_classifier.py",
        "verify/host/comparison.py",
        "verify/cabi/build.py",
    }
)
"""Modules that no host needs: comparison of hosts, text classifier, the C interface's build."""


def build_zipapp(target: Path) -> Path:
    """Write verify.pyz, unless it is up to date. Equal sources give equal bytes."""
    return kept(target, (path for path in files_below(SOURCE) if path.suffix in (".py", ".toml")), zipapp)


@cache
def zipapp() -> bytes:
    """Return verify.pyz, which runs with Python 3.10 and later; its tables are JSON, because Python 3.10 cannot read TOML.

    Releases of zlib may compress differently: a host with two controllers then gets the tool again.
    """
    entries: dict[str, bytes] = {}
    tables: dict[str, Any] = {}
    for path in sorted(SOURCE.rglob("*")):
        name = f"verify/{path.relative_to(SOURCE).as_posix()}"
        if name in STAYS_HERE:
            continue
        if path.suffix == ".py":
            entries[name] = path.read_bytes()
        elif path.suffix == ".toml" and path.parent.name == "data":
            tables[path.stem] = tomllib.loads(path.read_text(encoding="utf-8"))
    entries["verify/data.json"] = json.dumps(tables, sort_keys=True, separators=(",", ":")).encode()
    entries[f"verify/doctor/{PACKED_CAUSES}"] = pack()
    return pack_zipapp(entries, main="verify.cli.main:main(sys.argv[1:])")
