"""What the checks of a host compare with: its expected GPUs, and the advisories that hold on it."""

from collections.abc import Mapping
from typing import Any

from provision.catalog import catalog
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.phases.plan.advisories import exposure_of, is_critical
from provision.phases.plan.cards import AMD, NVIDIA, nvidia_by_id, server_of

VENDORS = {"cu": NVIDIA, "ro": AMD}
"""PCI vendor id of the GPUs, by the first letters of the planned torch variant."""


def expected_gpus(
    facts: HostFacts, settings: Settings, variant: str, before: HostFacts | None, run: str | None
) -> dict[str, Any] | None:
    """Return the `gpus` of `verify --expect`: `count`, the known PCI addresses, and the source.

    Args:
        variant: The planned torch build (`cu130`).
        before: What the probe found in `run`.
        run: The run in which the host was last green.

    Returns:
        None if nothing is expected: the setting `expected_gpus` is not set, and the setting `gpus` names cards, or the server's product is
        unknown and the Stack uses no cards.
    """
    vendor = VENDORS.get(variant[:2])
    had = sorted(gpu.address for gpu in before.pci_gpus if gpu.vendor_id == vendor) if before else []
    if count := settings.expected_gpus:
        return {"count": count, "pci": had if len(had) == count else [], "source": "firstlight_expected_gpus"}
    if settings.gpus != "all":
        return None
    server = server_of(facts)
    found = {"count": len(had), "pci": had, "source": f"run {run}, in which the host was last green"}
    name, board = _board(facts) if vendor == NVIDIA else ("", 0)
    if server and server.gpus > len(had):
        found = {"count": server.gpus, "pci": [], "source": f"{server.name}: {server.gpus} GPUs"}
    elif board > len(had):
        found = {"count": board, "pci": [], "source": f"a board of {name} with NVSwitches holds {board}"}
    return found if found["count"] else None


def _board(facts: HostFacts) -> tuple[str, int]:
    """Return the cards' name and the size of the host's board; 0 if unknown, as in a virtual machine with some of the cards."""
    if facts.virtualization or facts.container or facts.wsl or facts.nvidia is None:
        return "", 0
    found = [row for gpu in facts.pci_gpus if (row := nvidia_by_id(gpu.device_id)) and row.switched_board]
    boards = [row for row in found if facts.nvidia.nvswitches or row.subnet_manager]
    return max(((row.name, row.switched_board or 0) for row in boards), key=lambda known: known[1], default=("", 0))


def expected_advisories(settings: Settings, stack: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the `advisories` of `verify --expect`: those whose conditions hold on a host, of any version.

    Args:
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
