#!/usr/bin/python
"""Ansible module: whether Secure Boot lets a kernel load modules that are built on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_secure_boot_info
short_description: Check that Secure Boot lets the kernel load modules built on this host
description:
  - Fails where Secure Boot is on and the key that the host signs its own modules with is not enrolled.
  - Enrols nothing. A person confirms a key at the console.
options: {}
author: Firstlight
"""

EXAMPLES = r"""
- name: Check Secure Boot
  firstlight_secure_boot_info: {}
"""

RETURN = r"""
enabled:
  description: Whether Secure Boot is on.
  type: bool
  returned: always
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_commands import ABSENT, run

ARGUMENTS = {}
VARIABLE = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
"""Where shim's packages (Ubuntu) and dkms 3 (Debian, RHEL) keep the key that they sign modules with."""


def is_enabled():
    status, _, state = run("mokutil", "--sb-state")
    if status != ABSENT:
        return "enabled" in state
    try:
        with open(VARIABLE, "rb") as file:
            # Four bytes of attributes, then the value.
            return file.read()[-1:] == b"\1"
    except OSError:
        return False


def is_enrolled(key):
    return "already enrolled" in run("mokutil", "--test-key", key)[2]


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    enabled, keys = is_enabled(), [path for path in KEYS if os.path.isfile(path)]
    if not enabled or any(is_enrolled(key) for key in keys):
        module.exit_json(changed=False, enabled=enabled)
    if keys:
        hint = (
            f"on the host: sudo mokutil --import {keys[-1]} (it asks for a new password), restart, confirm the key and the "
            "password at the console (MOK management), then run the command again; or turn Secure Boot off in the firmware"
        )
    else:
        hint = (
            "on the host: install dkms and mokutil, sudo dkms generate_mok (Ubuntu: sudo update-secureboot-policy --new-key), "
            "sudo mokutil --import /var/lib/dkms/mok.pub (Ubuntu: /var/lib/shim-signed/mok/MOK.der), restart, confirm the key "
            "at the console, then run the command again; or turn Secure Boot off in the firmware"
        )
    text = (
        "Secure Boot is on and the key that this host signs its own kernel modules with is not enrolled: its kernel would "
        "refuse the driver"
    )
    module.fail_json(msg=text, hint=hint, enabled=enabled)


if __name__ == "__main__":
    main()
