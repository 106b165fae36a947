"""From neutral package names to a distribution's."""

import pytest

from provision.catalog.packages import os_packages
from provision.core.errors import UsageError

ALL = ("libnuma", "cxx-compiler", "python-headers")


@pytest.mark.parametrize(
    ("manager", "python", "os_id", "os_version", "packages"),
    [
        ("apt", "3.11.2", "debian", "12", ("libnuma1", "g++", "python3-dev")),
        ("apt", "3.12", "debian", "12", ("libnuma1", "g++", "python3.12-dev")),
        ("apt", "3.10", "ubuntu", "22.04", ("libnuma1", "g++", "python3-dev")),
        ("dnf", "3.9", "rhel", "9.4", ("numactl-libs", "gcc-c++", "python3-devel")),
        ("dnf", "3.11", "rocky", "9.4", ("numactl-libs", "gcc-c++", "python3.11-devel")),
        ("zypper", "3.11", None, None, ("libnuma1", "gcc-c++", "python3.11-devel")),
    ],
)
def test_packages(
    manager: str, python: str, os_id: str | None, os_version: str | None, packages: tuple[str, ...]
) -> None:
    assert os_packages(ALL, manager=manager, python=python, os_id=os_id, os_version=os_version) == packages


def test_a_package_manager_without_known_names_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        os_packages(ALL, manager="apk", python="3.12")
    assert caught.value.hint == "it has names for: apt, dnf, zypper"
