#!/usr/bin/python
"""Ansible module: packages of one repository, at one version, in one transaction."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.firstlight_apt_dnf import Apt, Dnf
from ansible.module_utils.firstlight_host import HostError

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
            manager.remember()
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
    finally:
        if make:
            manager.record()
    module.exit_json(changed=bool(manager.changes), changes=manager.changes, notes=manager.notes, **result)


if __name__ == "__main__":
    main()
