"""This machine as a host that is checked."""

from provision.models.settings import Connection
from provision.remote.local import LocalSession

LOCALHOST = LocalSession("localhost", Connection(kind="local"))
