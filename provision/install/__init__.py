"""The room that changes hosts: Ansible playbooks, run through ansible-runner, their events turned into results."""

from provision.install.room import install
from provision.install.target import Progress, Target

__all__ = ["Progress", "Target", "install"]
