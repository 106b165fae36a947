"""The service on a host: its plan, processes, control and client."""
