"""Conversation with a service, which Python runs on the host of the service or of its gateway."""
