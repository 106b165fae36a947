"""Wheel tags and dependency markers of a host, computed from its platform and Python, not from those of the controller."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.markers import Environment
from packaging.tags import Tag, compatible_tags, cpython_tags

from provision.core.errors import StageError

UV_GLIBC_MINORS = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""The manylinux_2_N that `uv pip compile --python-platform` knows. Source: help text of uv 0.13."""

_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""Older names of three glibc floors. Source: PEP 600."""
_OLDEST = {"x86_64": 5, "aarch64": 17}
"""The oldest glibc minor in wheel tags, by architecture. Source: PEP 513 and PEP 599."""


@dataclass(frozen=True)
class Target:
    """The platform that wheels must fit: `x86_64-manylinux_2_36` and a CPython, `3.11` or `3.11.7`."""

    machine: str
    glibc_minor: int
    python: str

    @classmethod
    def of(cls, platform: str, python: str) -> Target:
        """Return the target for a Stack's platform and interpreter version.

        Raises StageError where no wheel can be chosen for this platform.
        """
        found = re.fullmatch(r"(x86_64|aarch64)-manylinux_2_(\d+)", platform)
        if not found:
            raise StageError(
                f"no wheels can be chosen for platform `{platform}`",
                hint="supported are x86_64-manylinux_2_N and aarch64-manylinux_2_N (glibc 2.N)",
            )
        return cls(found[1], int(found[2]), python)

    @property
    def minor(self) -> tuple[int, int]:
        major, minor = self.python.split(".")[:2]
        return int(major), int(minor)

    @property
    def wheel_tag(self) -> str:
        """The best tag that fits, as file names have it: `cp313-manylinux_2_41_x86_64`."""
        return "cp{}{}-manylinux_2_{}_{}".format(*self.minor, self.glibc_minor, self.machine)

    @property
    def uv_platform(self) -> str:
        """The nearest platform that uv can solve for, never newer than the host's."""
        known = [minor for minor in UV_GLIBC_MINORS if minor <= self.glibc_minor]
        if not known:
            raise StageError(
                f"glibc 2.{self.glibc_minor} is older than any that packages are solved for (2.{UV_GLIBC_MINORS[0]})",
                hint="use a host with a newer operating system",
            )
        return f"{self.machine}-manylinux_2_{known[-1]}"

    def tags(self) -> list[Tag]:
        """Return every tag that fits, the best first."""
        platforms = [f"linux_{self.machine}"]
        for minor in range(self.glibc_minor, _OLDEST[self.machine] - 1, -1):
            platforms += [f"{name}_{self.machine}" for name in (f"manylinux_2_{minor}", _LEGACY.get(minor)) if name]
        interpreter = "cp{}{}".format(*self.minor)
        return [
            *cpython_tags(self.minor, abis=[interpreter], platforms=platforms),
            *compatible_tags(self.minor, interpreter=interpreter, platforms=platforms),
        ]

    def markers(self) -> Environment:
        """Return the environment for dependency markers on the host."""
        full = self.python if self.python.count(".") == 2 else f"{self.python}.0"
        return {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "platform_python_implementation": "CPython",
            "python_version": "{}.{}".format(*self.minor),
            "sys_platform": "linux",
        }
