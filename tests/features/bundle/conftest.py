"""An index and a hub on this machine, and a user without configuration."""

from tests.stage.conftest import bare_client, site

__all__ = ["bare_client", "site"]
