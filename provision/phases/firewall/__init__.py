"""Rules of firewalls. Rendered here, and nothing else is done."""
