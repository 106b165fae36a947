"""Hosts that find each other: through which interface, and whether what they exchange arrives as it was sent."""
