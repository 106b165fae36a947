"""Which platform a wheel was built for, held against the plan.

Two builds of one release differ in a local version at most (`2.13.0` and `2.13.0+cpu`), and a requirement `==2.13.0` takes both. So each
locked wheel whose build the plan fixes is looked at: first its version, before it is fetched, then what stands in it.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name

from provision.catalog.index.settings import without_credentials
from provision.core.models.stack import Stack
from provision.core.tables import own_table
from provision.phases.stage.lock import Locked
from provision.phases.stage.solve_request import builds_of, companions_of

_LOCAL = re.compile(r"(?:cpu|xpu|cu\d+|rocm\d[\d.]*)")
_VERSION_FILE = re.compile(r"[^/]+/_?version\.py")
_NAMED = re.compile(r"^__version__\b[^\n]*?['\"]([^'\"\n]+)['\"]", re.MULTILINE)
_TOOLKIT = re.compile(r"^(cuda|hip)\b[^\n=]*= *(?:None|['\"]([^'\"\n]+)['\"]) *$", re.MULTILINE)


@dataclass(frozen=True)
class Foreign:
    """A locked wheel that was built for another platform than the plan says."""

    wheel: Locked
    built_for: str
    planned: str
    by_version: bool
    """Whether its version names that platform; else what stands in the wheel does."""

    @property
    def text(self) -> str:
        """The file by its name and place, with both platforms."""
        place = without_credentials(self.wheel.url.rpartition("/")[0])
        return f"`{self.wheel.name}` from {place} is built for {self.built_for}, and the plan is {self.planned}"


def foreign_by_version(stack: Stack, wheels: Iterable[Locked]) -> list[Foreign]:
    """Wheels whose local version names another platform."""
    planned = _planned(stack)
    return _foreign(
        ((wheel, named_platform(wheel.version), planned.get(_key(wheel))) for wheel in wheels), by_version=True
    )


def foreign_inside(stack: Stack, wheels: Iterable[Locked], paths: Mapping[str, Path]) -> list[Foreign]:
    """Fetched wheels in which another platform stands; `paths` by their hashes."""
    planned = _planned(stack)
    fixed = [wheel for wheel in wheels if wheel.url and _key(wheel) in planned]
    found = ((wheel, platform_inside(paths[wheel.sha256]), planned[_key(wheel)]) for wheel in fixed)
    return _foreign(found, by_version=False)


def _planned(stack: Stack) -> dict[str, str]:
    """The variant of each distribution whose build the plan fixes, by normalised name."""
    fixed = {build.name: build.variant for build in builds_of(stack)}
    if stack.torch_stands_in:
        # Any build of torch computes on a CPU.
        fixed.pop("torch", None)
    else:
        fixed |= dict.fromkeys(companions_of(stack), stack.torch.variant)
    return {canonicalize_name(name): variant for name, variant in fixed.items()}


def _key(wheel: Locked) -> str:
    return canonicalize_name(wheel.distribution)


def _foreign(found: Iterable[tuple[Locked, str | None, str | None]], *, by_version: bool) -> list[Foreign]:
    return [
        Foreign(wheel, platform, planned, by_version)
        for wheel, platform, planned in found
        if planned and platform and not _agree(platform, planned)
    ]


def named_platform(version: str) -> str | None:
    """`cpu`, `cu130`, `rocm7.0` of a version's local part; null where it names none."""
    match = _LOCAL.match(version.partition("+")[2])
    return match[0].rstrip(".") if match else None


def platform_inside(wheel: Path) -> str | None:
    """What the wheel's own version file says, else what the files in it tell; null where nothing does.

    A release without local part is fetched from any index, and torch's on PyPI says `2.13.0+cu130` and `cuda = '13.0'` of itself.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
        for member in filter(_VERSION_FILE.fullmatch, members):
            if said := _said(archive.read(member).decode(errors="replace")):
                return said
    return next((row["platform"] for row in _telling() if any(map(re.compile(row["member"]).match, members))), None)


def _said(text: str) -> str | None:
    toolkits = dict(_TOOLKIT.findall(text))
    for name, release in toolkits.items():
        if release:
            major_minor = release.split(".")[:2]
            return "rocm" + ".".join(major_minor) if name == "hip" else "cu" + "".join(major_minor)
    if {"cuda", "hip"} <= toolkits.keys():
        return "cpu"
    named = _NAMED.search(text)
    return named_platform(named[1]) if named else None


def _agree(found: str, planned: str) -> bool:
    """One family, and no digit that differs: `rocm7.0` is `rocm700`, `cu13` may be `cu130`."""
    one, other = (name.replace(".", "") for name in (found, planned))
    return one.startswith(other) or other.startswith(one)


def _telling() -> list[dict[str, str]]:
    rows: list[dict[str, str]] = own_table(Path(__file__).with_name("variants.toml"))["inside"]
    return rows
