"""Where firewalls take part in the work of the core: rules need the ports on which programs listen."""

from provision.features.firewall.firewall import wants_rules as needs_full_probe

__all__ = ["needs_full_probe"]
