"""The platform that a wheel was built for, compared with the plan.

Two builds of one release differ at most in the local version (`2.13.0` and `2.13.0+cpu`), and the requirement `==2.13.0` accepts both. So
each pinned wheel is checked twice: its version before it is fetched, then its content.
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
from provision.phases.stage.solve import LockedWheel, builds_of, companions_of

_LOCAL = re.compile(r"(?:cpu|xpu|cu\d+|rocm\d[\d.]*)")
_VERSION_FILE = re.compile(r"[^/]+/_?version\.py")
_NAMED = re.compile(r"^__version__\b[^\n]*?['\"]([^'\"\n]+)['\"]", re.MULTILINE)
_TOOLKIT = re.compile(r"^(cuda|hip)\b[^\n=]*= *(?:None|['\"]([^'\"\n]+)['\"]) *$", re.MULTILINE)


@dataclass(frozen=True)
class WrongPlatformWheel:
    """A locked wheel that was built for another platform than planned."""

    wheel: LockedWheel
    built_for: str
    planned: str
    by_version: bool
    """Whether its version names that platform; else its content does."""

    @property
    def text(self) -> str:
        """The file, its index, and both platforms."""
        source = without_credentials(self.wheel.url.rpartition("/")[0])
        return f"`{self.wheel.name}` from {source} is built for {self.built_for}, not for {self.planned}"


def find_wrong(
    stack: Stack, wheels: Iterable[LockedWheel], paths: Mapping[str, Path] | None = None
) -> list[WrongPlatformWheel]:
    """Return the wheels for another platform than planned: by their versions, or by the content of fetched ones (`paths` by hashes)."""
    planned = _planned(stack)
    wrong = []
    for wheel in wheels:
        variant = planned.get(canonicalize_name(wheel.distribution))
        if variant is None or (paths is not None and not wheel.url):
            continue
        platform = named_platform(wheel.version) if paths is None else platform_inside(paths[wheel.sha256])
        if platform and not _matches(platform, variant):
            wrong.append(WrongPlatformWheel(wheel, platform, variant, by_version=paths is None))
    return wrong


def _planned(stack: Stack) -> dict[str, str]:
    """Return the variant of each pinned distribution, by normalized name."""
    fixed = {build.name: build.variant for build in builds_of(stack)}
    if stack.torch_stands_in:
        # Any build of torch runs on a CPU.
        fixed.pop("torch", None)
    else:
        fixed |= dict.fromkeys(companions_of(stack), stack.torch.variant)
    return {canonicalize_name(name): variant for name, variant in fixed.items()}


def named_platform(version: str) -> str | None:
    """Return `cpu`, `cu130` or `rocm7.0` from a version's local part; None where it has none."""
    match = _LOCAL.match(version.partition("+")[2])
    return match[0].rstrip(".") if match else None


def platform_inside(wheel: Path) -> str | None:
    """Return the platform from a wheel's version file, else from its file names; None where both are silent.

    A release without a local part may come from any index; torch's default wheel then has `2.13.0+cu130` and `cuda = '13.0'` inside.
    """
    with zipfile.ZipFile(wheel) as archive:
        members = archive.namelist()
        for member in filter(_VERSION_FILE.fullmatch, members):
            if platform := _platform_of(archive.read(member).decode(errors="replace")):
                return platform
    rows: list[dict[str, str]] = own_table(Path(__file__).with_name("variants.toml"))["inside"]
    return next((row["platform"] for row in rows if any(map(re.compile(row["member"]).match, members))), None)


def _platform_of(text: str) -> str | None:
    toolkits = dict(_TOOLKIT.findall(text))
    for name, release in toolkits.items():
        if release:
            major_minor = release.split(".")[:2]
            return "rocm" + ".".join(major_minor) if name == "hip" else "cu" + "".join(major_minor)
    if {"cuda", "hip"} <= toolkits.keys():
        return "cpu"
    named = _NAMED.search(text)
    return named_platform(named[1]) if named else None


def _matches(found: str, planned: str) -> bool:
    """Compare two platform names. `rocm7.0` equals `rocm700`, and `cu13` may be `cu130`."""
    one, other = (name.replace(".", "") for name in (found, planned))
    return one.startswith(other) or other.startswith(one)
