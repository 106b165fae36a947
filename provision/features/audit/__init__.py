"""The audit of locked packages by a public service for vulnerabilities."""
