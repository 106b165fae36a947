"""The user's package indexes: the settings of pip and uv, the HTTP client, and what a project's page lists."""
