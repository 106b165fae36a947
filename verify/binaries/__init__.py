"""Files of an environment: libraries, GPU code, byte code, and what was installed."""
