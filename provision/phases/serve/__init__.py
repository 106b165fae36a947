"""Serve phase: vLLM's command line, the service that keeps it running, and the proof that it answers correctly."""
