"""Sessions with hosts, and work on many of them at once.

A session looks at a host and sends bytes to it; what changes a host is Ansible's.
"""

from provision.fleet.ssh.dispatch import FanOut, FanOutInterrupted, FanOutStats, Task, TaskOutcome, fan_out
from provision.fleet.ssh.errors import AuthenticationError
from provision.fleet.ssh.openssh import ansible_variables, ssh_command
from provision.fleet.ssh.session import Completed, SendReport, Session
from provision.fleet.ssh.session_factory import open_session

__all__ = [
    "AuthenticationError",
    "Completed",
    "FanOut",
    "FanOutInterrupted",
    "FanOutStats",
    "SendReport",
    "Session",
    "Task",
    "TaskOutcome",
    "ansible_variables",
    "fan_out",
    "open_session",
    "ssh_command",
]
