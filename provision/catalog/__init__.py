"""The catalog: tables about builds, drivers and cards, each row with its source."""

from provision.catalog.load import Catalog, catalog

__all__ = ["Catalog", "catalog"]
