"""Files of hosts that the controller does not send: handed on by other hosts, or from a source that the host has."""
