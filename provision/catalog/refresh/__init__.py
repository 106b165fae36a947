"""What the user's own package index says of vLLM and torch, beside what the catalog says: read from the artifacts, never whole."""
