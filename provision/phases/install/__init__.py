"""The phase that changes hosts: Ansible playbooks, run through ansible-runner, their events turned into results."""

from provision.phases.install.host_results import install
from provision.phases.install.target import Progress, Target

__all__ = ["Progress", "Target", "install"]
