"""Quarantine: hosts whose hardware failed a check take no part in runs until they are returned to service."""
