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
  part:
    description: The packages and their repository, as variable C(vendor_packages_part) of role C(vendor_packages) has them.
    type: dict
    required: true
  version:
    description: Version that the packages of the family must have. Without it that of O(part) is the one.
    type: str
  choose:
    description:
      - Install nothing, and only choose the version; the planned one, or where the repository lacks it the newest within the plan's
        bounds that it has of all packages. Outside check mode package lists are read again where the planned version is missing.
    type: bool
    default: false
  along:
    description: Packages of the family that are installed later and must be available in the version that is chosen.
    type: list
    elements: str
    default: []
  headers:
    description: Whether every installed kernel must have its headers.
    type: bool
    default: false
  lock_timeout_s:
    description: Seconds to wait for another package manager to finish.
    type: int
    default: 600
author: Firstlight (!UNKNOWN)
"""

EXAMPLES = r"""
- name: Install and hold the packages of the driver
  firstlight.kit.packages:
    part: "{{ vendor_packages_part }}"
    version: 580.95.05
"""

RETURN = r"""
version:
  description: The version that was chosen; the planned one where no other will do either.
  type: str
  returned: with O(choose)
changes:
  description: What was changed, one text for each step.
  type: list
  elements: str
  returned: always
notes:
  description: What was noticed and hinders nothing, as a kernel without headers, or another version than the planned one.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_apt import Apt
from ansible.module_utils.firstlight_dnf import Dnf
from ansible.module_utils.firstlight_errors import HostError

ARGUMENTS = {
    "part": {"type": "dict", "required": True},
    "version": {"type": "str"},
    "choose": {"type": "bool", "default": False},
    "along": {"type": "list", "elements": "str", "default": []},
    "headers": {"type": "bool", "default": False},
    "lock_timeout_s": {"type": "int", "default": 600},
}


def install(manager, *, headers, make):
    """Bring the packages to their version; without `make` only add what would be done to the changes."""
    manager.repair(make)
    manager.install_before(make)
    packages, remove = manager.transaction(manager.installed(), headers, make)
    if packages or remove:
        named = [*(f"{name}={version}" for name, version in sorted(packages.items())), *(f"{name}-" for name in remove)]
        manager.changes.append(f"packages {' '.join(named)}")
        if make:
            manager.run_transaction(packages, remove)
    if manager.family:
        manager.hold(make)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    given, make, result = module.params, not module.check_mode, {}
    part = given["part"]
    kind = {"apt": Apt, "dnf": Dnf}[part["repository"]["manager"]]
    manager = kind(part, version=given["version"], lock_timeout_s=given["lock_timeout_s"])
    try:
        if given["choose"]:
            result["version"] = manager.choose_version(given["along"], make=make)
        else:
            install(manager, headers=given["headers"], make=make)
    except HostError as error:
        module.fail_json(msg=str(error), hint=error.hint, changes=manager.changes, notes=manager.notes)
    module.exit_json(changed=bool(manager.changes), changes=manager.changes, notes=manager.notes, **result)


if __name__ == "__main__":
    main()
