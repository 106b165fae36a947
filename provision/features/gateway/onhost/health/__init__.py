"""The health agent of a serving host, packed into health.pyz. It says to the gateway's HAProxy how well the engine computes."""
