"""Programs that are copied to a host and run there by the environment's own Python, each from its one file."""
