#!/usr/bin/python
"""Ansible module: the version that a repository has of all packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_package_version_info
short_description: Choose the version that a repository has of all packages
description:
  - Returns the planned version, or where a mirror lacks it the newest within the plan's bounds that all packages have.
  - Installs nothing. Outside check mode package lists are read again where the planned version is missing.
options:
  along:
    description: Packages of the family that are installed later and must be available in the same version.
    type: list
    elements: str
    default: []
  at_least:
    description: Lower bound of other versions that will do. Without it none will.
    type: str
  below:
    description: Upper bound, not included.
    type: str
extends_documentation_fragment: firstlight_packages
author: Firstlight
"""

EXAMPLES = r"""
- name: Choose the driver's version
  firstlight_package_version_info:
    packages: [nvidia-open]
    version: 580.173.02
    at_least: 580.65.06
    below: "581"
    family: {packages: [nvidia-*], version: "[0-9]{3}\\."}
    repository: {manager: apt, name: nvidia-cuda, origin: NVIDIA, uri: "file:///srv/mirror"}
"""

RETURN = r"""
version:
  description: The version; the planned one where no other will do either.
  type: str
  returned: always
notes:
  description: Why the version is not the planned one.
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
    "along": {"type": "list", "elements": "str", "default": []},
    "at_least": {"type": "str"},
    "below": {"type": "str"},
}


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    manager = manager_of(module.params)
    try:
        version = manager.choose_version(make=not module.check_mode)
    except PackageError as error:
        module.fail_json(msg=str(error), hint=error.hint)
    if version != manager.version:
        manager.notes.append(
            f"{manager.uri} has no {manager.version} of all packages; {version} is the newest within the plan's bounds"
        )
    module.exit_json(changed=False, version=version or "", notes=manager.notes)


if __name__ == "__main__":
    main()
