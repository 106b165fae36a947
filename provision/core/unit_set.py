"""Units of one purpose on a host, with the files that they run with."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any


def filled(path: Path, **values: object) -> str:
    """Return the text of a file of the product with values in place of its variables."""
    return Template(path.read_text(encoding="utf-8")).substitute(values)


@dataclass(frozen=True)
class UnitSet:
    """Files and units of one purpose on a host, which are checked, switched and taken back together."""

    name: str
    """Of its folder below the prefix."""
    files: Mapping[str, str] = field(repr=False)
    """Text by the name below `PREFIX/NAME/current`."""
    units: Mapping[str, str]
    """Text of each unit by its name."""
    packages: tuple[str, ...] = ()
    packaged: tuple[str, ...] = ()
    """Units of these packages, which are not used."""
    account: str = "root"
    """Account that owns the folders of `data`, and may read the files."""
    ports: tuple[int, ...] = ()
    """What the units listen on."""
    ready: tuple[str, ...] = ()
    """Addresses that answer 200 when the units run with the files."""
    checks: tuple[tuple[str, ...], ...] = ()
    """Commands that must succeed in the folder of the new files before these are used."""
    proofs: tuple[tuple[str, ...], ...] = ()
    """Commands that succeed while what the units set up is in effect, for units without a page that answers."""
    data: tuple[str, ...] = ()
    """Folders next to the files, in which units write."""
    hint: str = ""
    """What may help where the units do not answer, beside their logs."""

    @property
    def running(self) -> tuple[str, ...]:
        """Units that are started at boot; the others are started by these."""
        return tuple(name for name, text in self.units.items() if "\n[Install]\n" in text)

    @property
    def digest(self) -> str:
        """Name of the files."""
        return hashlib.sha256(json.dumps([*self.files.items()]).encode()).hexdigest()[:16]

    def variables(self, incoming: str) -> dict[str, Any]:
        """Return what module firstlight_unit_set is given; `incoming` is the folder on the host that the files were sent to."""
        return {
            "name": self.name,
            "incoming": incoming,
            "digest": self.digest,
            "units": dict(self.units),
            "packaged": list(self.packaged),
            "account": self.account,
            "ports": list(self.ports),
            "ready": list(self.ready),
            "checks": [{"command": list(command)} for command in self.checks],
            "proofs": [{"command": list(command)} for command in self.proofs],
            "data": list(self.data),
            "hint": self.hint,
        }
