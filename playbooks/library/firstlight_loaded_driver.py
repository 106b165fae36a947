#!/usr/bin/python
"""Ansible module: the GPU driver, loaded without a restart where that is possible."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_loaded_driver
short_description: Load the GPU driver, or report why only a restart helps
description:
  - Loads the driver's modules where no other driver has the GPUs.
  - Restarts nothing. RV(restart) has the reason where the host must be restarted.
options:
  driver:
    description: The driver.
    type: str
    choices: [nvidia, amdgpu]
    required: true
  version:
    description: Version that every NVIDIA GPU must report; of amdgpu the lowest one that may run. The kernel's own amdgpu has none.
    type: str
author: Firstlight
"""

EXAMPLES = r"""
- name: Load the NVIDIA driver
  firstlight_loaded_driver:
    driver: nvidia
    version: 580.173.02
"""

RETURN = r"""
changes:
  description: Whether modules were loaded.
  type: list
  elements: str
  returned: always
restart:
  description: Why the host must be restarted; empty where it need not be.
  type: str
  returned: always
"""

import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_commands import last_lines, run
from ansible.module_utils.firstlight_files import read

ARGUMENTS = {
    "driver": {"type": "str", "choices": ["nvidia", "amdgpu"], "required": True},
    "version": {"type": "str"},
}
NVIDIA_SMI_S = 60
"""Seconds for nvidia-smi: with a driver that hangs it never returns."""


def running_versions():
    """Return what the NVIDIA GPUs report, each version once."""
    status, out, _ = run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", timeout_s=NVIDIA_SMI_S)
    return sorted({line.strip() for line in out.splitlines() if line.strip()}) if status == 0 else []


def nvidia_runs(version):
    return running_versions() == [version]


def nvidia_obstacle():
    """Return why the NVIDIA driver cannot be loaded now, or None."""
    kernel = os.uname().release
    if not os.path.isdir(f"/lib/modules/{kernel}"):
        return f"kernel {kernel} runs, which is not installed on this host and has no module"
    for name in ("nouveau", "nova_core"):
        if os.path.isdir(f"/sys/module/{name}"):
            return f"{name} has the GPUs"
    if os.path.isdir("/sys/module/nvidia"):
        loaded = (read("/sys/module/nvidia/version") or "of another version").strip()
        return f"driver {loaded} is loaded"
    return None


def amdgpu_runs(oldest):
    return os.path.exists("/dev/kfd") and not older_amdgpu(oldest)


def older_amdgpu(oldest):
    """Return the version of a loaded amdgpu that is older than wanted; an empty text if it is not, or has no version."""
    loaded = (read("/sys/module/amdgpu/version") or "").strip()
    return loaded if oldest and loaded and numbers(loaded) < numbers(oldest) else ""


def numbers(version):
    return [int(part) for part in re.findall("[0-9]+", version)]


def amdgpu_obstacle(oldest):
    """Return why the amdgpu driver cannot be loaded now, or None."""
    older = older_amdgpu(oldest)
    if older:
        return f"driver {older} is loaded"
    return "the loaded amdgpu offers no compute devices" if os.path.isdir("/sys/module/amdgpu") else None


def load(names):
    """Load modules until one fails. Return the last line of its output."""
    for name in names:
        status, _, output = run("modprobe", name)
        if status != 0:
            return last_lines(output, 1)
    return ""


def main():
    module = AnsibleModule(
        argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("driver", "nvidia", ("version",))]
    )
    is_nvidia, version = module.params["driver"] == "nvidia", module.params["version"]

    def runs():
        return nvidia_runs(version) if is_nvidia else amdgpu_runs(version)

    if runs():
        module.exit_json(changed=False, changes=[], restart="")
    obstacle = nvidia_obstacle() if is_nvidia else amdgpu_obstacle(version)
    if obstacle:
        module.exit_json(changed=False, changes=[], restart=obstacle)
    if not module.check_mode:
        error = load(("nvidia", "nvidia-uvm") if is_nvidia else ("amdgpu",))
        if not runs():
            found = " ".join(running_versions()) if is_nvidia else ""
            cause = error or (f"nvidia-smi reports {found or 'no version'}" if is_nvidia else "there is no /dev/kfd")
            module.exit_json(changed=False, changes=[], restart=f"its modules did not load now: {cause}")
    module.exit_json(changed=True, changes=["modules loaded"], restart="")


if __name__ == "__main__":
    main()
