"""The catalog compared with the user's package index, read from metadata and parts of wheels."""
