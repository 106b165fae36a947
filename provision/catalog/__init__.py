"""What is known about builds, as tables: TOML rows, each with its source, read on first use."""

from provision.catalog.load import Catalog, catalog

__all__ = ["Catalog", "catalog"]
