"""What an engine shows on its own host. Programs that watch one have this by links."""
