"""What serves on a host: found, stopped and started, asked."""
