"""The health agent of a serving host, packed into health.pyz. It tells the gateway's HAProxy whether the engine computes, and the watchdog that it hangs."""
