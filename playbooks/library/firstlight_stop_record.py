#!/usr/bin/python
"""Ansible module: the record that a service was stopped on purpose."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_stop_record
short_description: Record that the service was stopped on purpose
description:
  - Writes C(PREFIX/etc/stopped.json), which the checks read.
  - The record holds for an end of the service before this moment, in this boot, and for no later one. It always changes.
options:
  prefix:
    description: Absolute folder that holds everything of this product on the host.
    type: path
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Record that the service was stopped on purpose
  firstlight_stop_record:
    prefix: /opt/firstlight
"""

RETURN = r"""
stopped:
  description: The record; C(at) in UTC, C(boot_id) of the kernel, C(monotonic) in seconds since boot.
  type: dict
  returned: always
"""

import json
import os
import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_files import diff_result, read, text_diff, write

ARGUMENTS = {"prefix": {"type": "path", "required": True}}


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    path = os.path.join(module.params["prefix"], "etc", "stopped.json")
    stopped = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "boot_id": (read("/proc/sys/kernel/random/boot_id") or "").strip(),
        "monotonic": time.monotonic(),
    }
    text = json.dumps(stopped)
    diff = [text_diff(path, read(path), text)]
    if not module.check_mode:
        write(path, text)
    module.exit_json(changed=True, stopped=stopped, **diff_result(module, diff))


if __name__ == "__main__":
    main()
