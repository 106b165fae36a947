#!/usr/bin/python
"""Ansible module: what a host serves now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_release_info
short_description: Report which service the live release has
description:
  - Reads what was activated last on the host. Changes nothing.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Read what is served
  firstlight_release_info:
    prefix: /opt/firstlight
  register: served
"""

RETURN = r"""
supervisor:
  description: C(systemd), C(systemd-user), C(supervisor) or C(none).
  type: str
  returned: always
name:
  description: Name of the unit or program.
  type: str
  returned: always
scope:
  description: Instance of systemd that has the unit, C(system) or C(user).
  type: str
  returned: always
uid:
  description: User ID of the account that Ansible uses on the host.
  type: int
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_releases import linked, service_of

ARGUMENTS = {"prefix": {"type": "path", "required": True}}


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    prefix = module.params["prefix"]
    module.exit_json(changed=False, **service_of(linked(prefix, "current")))


if __name__ == "__main__":
    main()
