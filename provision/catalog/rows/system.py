"""Rows about the host's system: space, memory, packages of the distribution, Python."""

from typing import Literal

from provision.catalog.rows import Row, SystemRow


class Need(Row):
    """Space and memory that a family of builds needs, in GiB."""

    family: Literal["cpu", "cuda", "rocm"]
    installed: float
    wheels: float
    memory: float
    model: float


class PythonNeed(Row):
    """Space of a managed interpreter, in GiB."""

    installed: float
    archive: float


class SystemNeed(Row):
    """A library or program that the distribution must provide."""

    name: str
    for_build: tuple[str, ...]
    why: str
    apt: str
    dnf: str
    zypper: str
    library: str | None = None
    programs: tuple[str, ...] = ()
    runtime: str | None = None
    """The runtime of the service that alone needs it; None where each does."""
    oldest: str | None = None
    """The first version that has what is used."""


class InstallCommand(Row):
    manager: str
    install: str


class Distribution(Row):
    id: str
    manager: str | None = None


class LinuxRelease(SystemRow):
    """What a release of a distribution contains."""

    libc: Literal["glibc", "musl"]
    libc_version: str
    python: str | None = None
    """The version of its python3; absent if the installation has none."""


class PythonPackage(SystemRow):
    """The package with the headers of a distribution's default interpreter."""

    python: str
    headers: str


class ManagedPython(Row):
    version: str


class PlatformTag(Row):
    """The glibc versions for which uv has a platform name, ascending."""

    glibc: tuple[str, ...]
