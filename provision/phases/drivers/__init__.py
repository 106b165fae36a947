"""Install the planned drivers."""
