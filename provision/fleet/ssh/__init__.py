"""Sessions with hosts, and parallel work on many hosts.

Sessions read from a host and upload files; Ansible makes all other changes. One Fabric (Paramiko) connection a host carries
commands and uploads; it is made as OpenSSH resolves the user's configuration.
"""

from provision.fleet.ssh.dispatch import FanOut, Task, fan_out
from provision.fleet.ssh.local import open_session
from provision.fleet.ssh.openssh import AuthenticationError, ansible_variables
from provision.fleet.ssh.session import Completed, SendReport, Session

__all__ = [
    "AuthenticationError",
    "Completed",
    "FanOut",
    "SendReport",
    "Session",
    "Task",
    "ansible_variables",
    "fan_out",
    "open_session",
]
