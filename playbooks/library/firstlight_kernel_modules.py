#!/usr/bin/python
"""Ansible module: the NVIDIA driver's kernel modules, for every installed kernel."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firstlight_kernel_modules
short_description: Build the NVIDIA driver's kernel modules for every installed kernel
description:
  - Lets dkms build what is missing. A kernel whose module cannot be built is an error when it runs, else a note.
  - The running kernel may be provided from outside, as in a container or a VM. Then modules are built for the installed kernels.
options:
  version:
    description: Version of the driver.
    type: str
    required: true
author: Firstlight
"""

EXAMPLES = r"""
- name: Build modules for every installed kernel
  firstlight_kernel_modules:
    version: 580.173.02
"""

RETURN = r"""
changes:
  description: Kernels that got a module, with its signer.
  type: list
  elements: str
  returned: always
notes:
  description: Kernels that had a module, with its signer, and kernels for which none could be built.
  type: list
  elements: str
  returned: always
"""

import glob
import os
import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_commands import ABSENT, last_lines, run

ARGUMENTS = {"version": {"type": "str", "required": True}}
NAMES = ("nvidia", "nvidia-current", "nvidia-current-open")
"""Of the module's file; the latter two are Debian's."""


def module_info(kernel, field, name="nvidia"):
    status, out, _ = run("modinfo", "-k", kernel, "-F", field, name)
    return out.strip() if status == 0 else ""


def has_module(kernel, version):
    """Return whether a kernel has the module, by dkms or by a package."""
    status = run("dkms", "status")[1]
    if re.search(
        rf"^nvidia[a-z-]*[/,] *{re.escape(version)}, {re.escape(kernel)}, [^:]*: installed", status, re.MULTILINE
    ):
        return True
    return module_info(kernel, "version") == version


def signer(kernel, version):
    """Return who signed the module, as the end of a sentence; empty where modinfo knows no such module."""
    for name in NAMES:
        if module_info(kernel, "version", name) == version:
            signed = module_info(kernel, "signer", name)
            return f", signed by {signed}" if signed else ", unsigned"
    return ""


def compiler_errors(version):
    """Return the log of a failed build and its first errors."""
    logs = sorted(glob.glob(f"/var/lib/dkms/nvidia*/{version}/build/make.log"))
    if not logs:
        return None, ""
    with open(logs[0], errors="replace") as file:
        errors = [line.strip() for line in file if re.search(r"[: ]error: ", line)]
    return logs[0], " ".join(errors[:2])


def build(module, kernel, version):
    """Build the module for one kernel. Return a change and a note, either of which is None."""
    if has_module(kernel, version):
        return None, f"module for kernel {kernel}{signer(kernel, version)}"
    if module.check_mode:
        # Without headers none can be built.
        return (f"module for kernel {kernel}" if os.path.exists(f"/lib/modules/{kernel}/build") else None), None
    status, _, output = run("dkms", "autoinstall", "-k", kernel)
    if has_module(kernel, version):
        return f"module for kernel {kernel}{signer(kernel, version)}", None
    log, errors = compiler_errors(version)
    cause = errors or ("dkms is not installed" if status == ABSENT else last_lines(output, 2))
    text = f"driver {version} has no module for kernel {kernel}: {cause}"
    if kernel == os.uname().release:
        hint = (
            f"see {log or f'dkms autoinstall -k {kernel}'} on the host; often the kernel is newer than the driver supports: "
            "plan a newer driver, or start an older kernel"
        )
        module.fail_json(msg=text, hint=hint)
    return None, text


def main():
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    version, running = module.params["version"], os.uname().release
    kernels = sorted(path.split("/")[3] for path in glob.glob("/lib/modules/*/kernel") if os.path.isdir(path))
    if not kernels:
        text = f"kernel {running} runs, and no kernel is installed on this host: no module can be built"
        hint = (
            "its kernel is provided from outside, as in a container: the driver is that of the machine below; or install the "
            "distribution's kernel and start it"
        )
        module.fail_json(msg=text, hint=hint)
    changes, notes = [], []
    if not os.path.isdir(f"/lib/modules/{running}"):
        notes.append(
            f"kernel {running} runs and is not installed on this host: modules are built for the installed kernels, and load "
            "once one of them runs"
        )
    for kernel in kernels:
        change, note = build(module, kernel, version)
        changes += [change] if change else []
        notes += [note] if note else []
    module.exit_json(changed=bool(changes), changes=changes, notes=notes)


if __name__ == "__main__":
    main()
