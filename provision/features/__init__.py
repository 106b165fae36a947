"""Features: what the core works without, one folder each. `provision/core/features.py` says how the core finds them."""
