"""What a server of a known product has: its GPUs, and the network cards next to them."""

import re
from dataclasses import dataclass

from provision.catalog import catalog
from provision.catalog.rows.hardware import ServerProduct
from provision.core.models.facts import BusDevice, HostFacts
from provision.phases.plan.cards import amd_cards, nvidia_cards


@dataclass(frozen=True)
class Server:
    """A host whose product has a row, with what the row says and what the bus shows."""

    name: str
    gpus: int
    found: int
    nics: int | None
    """None where the product is sold without them, or the bus could not be read."""
    nics_found: int
    """Network cards behind one PCIe switch with a GPU."""
    source: str


def server_of(facts: HostFacts) -> Server | None:
    """Return the product of a host; None without a row, with other GPUs than the row names, and where some of its GPUs may be hidden."""
    if facts.product is None or facts.container or facts.wsl:
        return None
    row = next((row for row in catalog().servers if re.fullmatch(row.match, facts.product)), None)
    if row is None or (facts.virtualization and not row.virtual):
        return None
    cards = [card.name for card in (*nvidia_cards(facts), *amd_cards(facts)) if not card.integrated]
    found = sum(name in row.cards for name in cards)
    if cards and not found:
        return None
    return _compared(row, facts, found)


def _compared(row: ServerProduct, facts: HostFacts, found: int) -> Server:
    devices = facts.topology.devices if facts.topology else ()
    switches = {_switch(device) for device in devices if device.kind == "card"}
    near = {
        device.address.partition(".")[0]
        for device in devices
        if device.kind == "network" and _switch(device) in switches
    }
    return Server(row.name, row.gpus, found, row.nics if devices else None, len(near), row.source)


def _switch(device: BusDevice) -> tuple[str, ...] | str:
    """Return the root port and the switch below it; a device without a switch has one of its own."""
    return device.bridges[:2] if len(device.bridges) > 1 else device.address
