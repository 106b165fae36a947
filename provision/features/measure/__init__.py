"""Measuring: what a choice of the service gains, and what equal hosts say a host should reach."""
