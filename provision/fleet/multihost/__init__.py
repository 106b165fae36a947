"""Several hosts at once: led to meet, and judged by what they saw of one another."""

from provision.fleet.multihost.coordinator import meet

__all__ = ["meet"]
