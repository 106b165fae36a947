#!/usr/bin/python
"""Ansible module: initial file systems, rebuilt after a change of module settings."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_initramfs
short_description: Rebuild initial file systems that are older than a file
description:
  - Initial file systems load modules such as nouveau before settings in C(/etc/modprobe.d) are read, so they must contain them.
  - Uses C(update-initramfs) or C(dracut), whichever the host has.
options:
  newer_than:
    description: File that they must be newer than. Nothing is done where it does not exist.
    type: path
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Rebuild initial file systems
  firstlight_initramfs:
    newer_than: /etc/modprobe.d/firstlight-nvidia.conf
"""

RETURN = r"""
changes:
  description: The command that rebuilds them.
  type: list
  elements: str
  returned: always
"""

import glob
import os

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_commands import last_lines, run

ARGUMENTS = {"newer_than": {"type": "path", "required": True}}
IMAGES = ("/boot/initrd.img-*", "/boot/initramfs-*.img")
COMMANDS = (["update-initramfs", "-u", "-k", "all"], ["dracut", "--regenerate-all", "--force"])


def is_stale(path):
    if not os.path.exists(path):
        return False
    images = [image for pattern in IMAGES for image in glob.glob(pattern)]
    return any(os.path.getmtime(image) < os.path.getmtime(path) for image in images)


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    commands = [command for command in COMMANDS if module.get_bin_path(command[0])]
    if not commands or not is_stale(module.params["newer_than"]):
        module.exit_json(changed=False, changes=[])
    command = " ".join(commands[0])
    if not module.check_mode:
        status, _, output = run(*commands[0])
        if status != 0:
            hint = "free disk space in /boot (df -h /boot), then run the command again"
            module.fail_json(msg=f"{command}: {last_lines(output, 3)}", hint=hint)
    module.exit_json(changed=True, changes=[command])


if __name__ == "__main__":
    main()
