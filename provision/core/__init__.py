"""What all other packages share: records, errors, redaction, paths, the run's folder, formatting."""
