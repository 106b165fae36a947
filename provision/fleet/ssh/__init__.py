"""Sessions with hosts, and work on many of them at once.

A session looks at a host and sends bytes to it; what changes a host is Ansible's.
"""

from provision.fleet.ssh.errors import AuthenticationError
from provision.fleet.ssh.fan_out import FanOut, FanOutInterrupted, FanOutStats, Outcome, Task, fan_out
from provision.fleet.ssh.opening import open_session
from provision.fleet.ssh.openssh import ansible_variables, ssh_command
from provision.fleet.ssh.session import Completed, SendReport, Session

__all__ = [
    "AuthenticationError",
    "Completed",
    "FanOut",
    "FanOutInterrupted",
    "FanOutStats",
    "Outcome",
    "SendReport",
    "Session",
    "Task",
    "ansible_variables",
    "fan_out",
    "open_session",
    "ssh_command",
]
