#!/usr/bin/python
"""Ansible module: packages of one repository, at one version, in one transaction."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_packages
short_description: Install packages of one repository at one version, and hold them there
description:
  - Installs, changes and removes packages in one transaction of apt or dnf, so that no host is left between two drivers.
  - Finishes packages that another run of dpkg left half configured, and waits for other package managers.
  - Needs neither python3-apt nor the Python bindings of dnf.
options:
  before:
    description: Packages that add further repositories, installed first where they are available.
    type: list
    elements: str
    default: []
  instead_of:
    description: Patterns of installed packages that are removed in the same transaction.
    type: list
    elements: str
    default: []
  headers:
    description: Whether every installed kernel must have its headers.
    type: bool
    default: false
extends_documentation_fragment: firstlight_packages
author: Firstlight
"""

EXAMPLES = r"""
- name: Install the driver and hold it
  firstlight_packages:
    packages: [nvidia-open|nvidia-open-580]
    version: 580.173.02
    family: {packages: [nvidia-*], version: "[0-9]{3}\\."}
    repository: {manager: apt, name: nvidia-cuda, origin: NVIDIA, uri: "file:///srv/mirror"}
    headers: true
"""

RETURN = r"""
changes:
  description: What was changed, one text for each step.
  type: list
  elements: str
  returned: always
notes:
  description: What was noticed and hinders nothing, as a kernel without headers.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_package_manager import ARGUMENTS as COMMON
from ansible.module_utils.firstlight_package_manager import PackageError
from ansible.module_utils.firstlight_packages import manager_of

ARGUMENTS = {
    **COMMON,
    "before": {"type": "list", "elements": "str", "default": []},
    "instead_of": {"type": "list", "elements": "str", "default": []},
    "headers": {"type": "bool", "default": False},
}


def install(manager, *, make):
    """Bring the packages to their version; without `make` only add what would be done to the changes."""
    manager.repair(make)
    manager.install_before(make)
    packages, remove = manager.transaction(manager.installed(), make)
    if packages or remove:
        named = [*(f"{name}={version}" for name, version in sorted(packages.items())), *(f"{name}-" for name in remove)]
        manager.changes.append(f"packages {' '.join(named)}")
        if make:
            manager.run_transaction(packages, remove)
    if manager.family:
        manager.hold(make)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    manager = manager_of(module.params)
    try:
        install(manager, make=not module.check_mode)
    except PackageError as error:
        module.fail_json(msg=str(error), hint=error.hint, changes=manager.changes, notes=manager.notes)
    module.exit_json(changed=bool(manager.changes), changes=manager.changes, notes=manager.notes)


if __name__ == "__main__":
    main()
