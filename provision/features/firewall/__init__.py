"""Firewalls of the hosts that serve: only those that have to may connect to their ports."""
