"""Programs that run on a gateway."""
