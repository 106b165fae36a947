"""The program that is copied to a host and run there by the environment's own Python."""
