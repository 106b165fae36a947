"""The serve room: what vLLM is started with, the service that keeps it running, and the proof that it answers right."""
