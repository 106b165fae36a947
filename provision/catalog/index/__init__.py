"""The user's package indexes: settings of pip and uv, the HTTP client, and project pages."""
