"""The advisories that a host's checks compare installed versions with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provision.catalog import catalog
from provision.core.models.settings import Settings
from provision.phases.plan.advisories import exposure_of, is_critical


def expected_advisories(settings: Settings, stack: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the `advisories` of `verify --expect`: those whose conditions hold on a host, of any version.

    Args:
        settings: The settings of the host.
        stack: Its Stack as JSON; None if this run has none, so that everything is assumed of a user's model.
    """
    exposure = exposure_of(settings, stack)
    return [
        {
            "id": row.id,
            "product": row.product,
            "severity": row.severity,
            "critical": is_critical(row),
            "since": row.since,
            "fixed": row.fixed,
            "allows": row.allows,
            "accepted": row.id in settings.accept_advisories,
        }
        for row in catalog().advisories
        if exposure.missing(row) is None
    ]
