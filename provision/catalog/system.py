"""From neutral names of system packages to those of a host's distribution."""

from __future__ import annotations

from collections.abc import Iterable

from provision.catalog.load import catalog
from provision.catalog.versions import is_of, minor
from provision.core.errors import UsageError


def os_packages(
    names: Iterable[str], *, manager: str, python: str, os_id: str | None = None, os_version: str | None = None
) -> tuple[str, ...]:
    """Names of a distribution's packages for neutral ones, in the order given.

    `manager` is apt, dnf or zypper; `python` the minor version of the host's interpreter that the Stack uses.
    Raises UsageError for a package manager without names in the table.
    """
    if manager not in catalog().install_commands:
        raise UsageError(
            f"no package names are known for `{manager}`", hint=f"known are: {', '.join(catalog().install_commands)}"
        )
    needs = {need.name: need for need in catalog().system_needs}
    found = []
    for name in names:
        package: str = getattr(needs[name], manager).format(python=minor(python))
        found.append(_own_headers(minor(python), os_id, os_version) or package if name == "python-headers" else package)
    return tuple(found)


def install_command(packages: Iterable[str], *, manager: str) -> str:
    """The line that a person types to have OS packages installed."""
    return f"{catalog().install_commands[manager].install} {' '.join(packages)}"


def _own_headers(python: str, os_id: str | None, os_version: str | None) -> str | None:
    for row in catalog().python_packages:
        if row.id == os_id and row.python == python and is_of(os_version or "", row.version_id):
            return row.headers
    return None
