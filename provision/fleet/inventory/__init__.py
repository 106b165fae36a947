"""Hosts and their settings: Ansible inventories read by Ansible, SSH resolved by OpenSSH, all of it validated."""

from provision.fleet.inventory.load import load

__all__ = ["load"]
