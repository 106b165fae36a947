"""Trials with several hosts at once, led by a coordinator."""

from provision.fleet.multihost.coordinator import meet

__all__ = ["meet"]
