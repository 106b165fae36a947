"""This machine as a host that is checked."""

from provision.core.models.inventory import Connection
from provision.fleet.ssh.local import LocalSession

LOCALHOST = LocalSession("localhost", Connection(kind="local"))
