"""The gateway in front of the hosts that serve: one address, TLS, a key for each client."""
