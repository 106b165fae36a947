"""Whether a model fits on the devices of one host: weights, key-value cache and the engine's overhead. Nothing is downloaded."""
