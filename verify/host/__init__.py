"""The host that checks run on: its devices, network and health, and how it compares with others."""
