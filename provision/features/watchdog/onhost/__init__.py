"""Programs that run on a host that serves."""
