"""Monitoring: what Prometheus scrapes, and with which files and units. Rendered here, and nothing else is done."""
