"""Everything that hosts need in one signed file, for networks without a package index."""
