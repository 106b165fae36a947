"""Watchdog: an engine that hangs is written down and started anew, on each host that serves under systemd."""
