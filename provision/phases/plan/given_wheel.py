"""A vLLM build that the settings name by its wheel, and that the tables may lack."""

import re
from dataclasses import dataclass

from packaging.version import Version

from provision.catalog import catalog
from provision.catalog.rows.builds import Build, Release
from provision.core.models.stack import WheelFile

INFERRED = "inferred from the wheel, not in the tables"
_EXACT = re.compile(r"==(\S+)")


@dataclass(frozen=True)
class GivenWheel:
    """A wheel, and the rows that were inferred from it."""

    file: WheelFile
    release: Release
    build: Build

    @property
    def policy(self) -> str:
        """Return the setting `vllm` that names this release and no other."""
        return f"=={self.release.version}"


def names_wheel(vllm: str) -> bool:
    """Return whether a setting names a wheel: by its path, by an address, or by a development version that the tables lack."""
    if "/" in vllm or vllm.endswith(".whl"):
        return True
    exact = _EXACT.fullmatch(vllm)
    if exact is None or exact[1] in {row.version for row in catalog().releases}:
        return False
    version = Version(exact[1])
    return version.is_prerelease or version.local is not None
