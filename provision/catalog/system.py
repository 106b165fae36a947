"""The distribution's names of system packages."""

from __future__ import annotations

from collections.abc import Iterable

from provision.catalog.load import catalog
from provision.catalog.versions import is_of, minor
from provision.core.errors import UsageError


def os_packages(
    names: Iterable[str], *, manager: str, python: str, os_id: str | None = None, os_version: str | None = None
) -> tuple[str, ...]:
    """Return a distribution's packages for neutral names, in the given order.

    Args:
        names: Neutral names.
        manager: apt, dnf or zypper.
        python: The version of the Stack's interpreter on the host.
        os_id: The distribution (ID of os-release).
        os_version: Its release (VERSION_ID of os-release).

    Raises:
        UsageError: The table has no names for the package manager.
    """
    if manager not in catalog().install_commands:
        raise UsageError(
            f"the catalog has no package names for `{manager}`",
            hint=f"it has names for: {', '.join(catalog().install_commands)}",
        )
    needs = {need.name: need for need in catalog().system_needs}
    found = []
    for name in names:
        package: str = getattr(needs[name], manager).format(python=minor(python))
        found.append(_own_headers(minor(python), os_id, os_version) or package if name == "python-headers" else package)
    return tuple(found)


def install_command(packages: Iterable[str], *, manager: str) -> str:
    """Return the command line that installs OS packages."""
    return f"{catalog().install_commands[manager].install} {' '.join(packages)}"


def _own_headers(python: str, os_id: str | None, os_version: str | None) -> str | None:
    for row in catalog().python_packages:
        if row.id == os_id and row.python == python and is_of(os_version or "", row.version_id):
            return row.headers
    return None
