"""The rows of the tables, one dataclass a table. A field without a default must be in the TOML.

GPU code: "80" is native code for compute capability 8.0; "p80" is PTX, which a driver compiles for 8.0 and newer cards.
"""

from dataclasses import dataclass
from typing import dataclass_transform


@dataclass_transform(eq_default=False, kw_only_default=True, frozen_default=True)
@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """A row of a table; each subclass is a dataclass as well. Rows are equal only to themselves."""

    source: str
    """The artifact or the page that the row was read from."""
    inferred: bool = False
    """Whether a value of the row was inferred, not read from the artifact."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True, eq=False)(cls)


class SystemRow(Row):
    """A row about a distribution; `version_id` is the release, or its first part."""

    id: str
    version_id: str

    def covers(self, os_id: str | None, version_id: str | None) -> bool:
        """Return whether a release of a distribution is this one or belongs to it: `9.4` belongs to `9`."""
        return self.id == os_id and f"{version_id}.".startswith(f"{self.version_id}.")
