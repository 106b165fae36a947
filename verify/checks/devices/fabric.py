"""devices.fabric: registration of GPUs with the NVSwitch fabric."""

from collections.abc import Iterator, Sequence
from typing import Any

from verify.host.card_health import Observation, combine, nvidia_check
from verify.host.views.nvml import Fabric, Health
from verify.records import CheckResult, Figure
from verify.tables import table

START = "start the fabric manager of exactly this driver version: systemctl enable --now nvidia-fabricmanager"


def evaluate(cards: Sequence[Health]) -> CheckResult:
    """Require registration of all cards. A single card needs no fabric: virtual machines with one card never complete it."""
    states = table("devices")["fabric_state"]
    members = [card for card in cards if card.fabric and card.fabric.state]
    if not members:
        return CheckResult("skip", "no GPU belongs to an NVSwitch fabric, or the driver is older than 535")
    complete = [card for card in members if card.fabric and card.fabric.state == states["completed"]]
    figures = (Figure("GPUs in the fabric", len(complete), "count", floor=None if len(cards) == 1 else len(members)),)
    observations = [entry for card in members for entry in _of_card(card, states, exclusive=len(cards) == 1)]
    evidence = {card.pci: vars(card.fabric) for card in members if card.fabric}
    return combine(
        observations, f"{len(complete)} of {len(members)} GPUs are registered with the fabric", figures, evidence
    )


def _of_card(card: Health, states: dict[str, Any], *, exclusive: bool) -> Iterator[Observation]:
    fabric = card.fabric
    if fabric is None:
        return
    if fabric.state != states["completed"]:
        name = states["names"][fabric.state] if fabric.state < len(states["names"]) else str(fabric.state)
        yield Observation("ok" if exclusive else "fail", f"{card.pci}: its fabric is {name}", START)
        return
    if fabric.status:
        text = f"{card.pci}: registration with the fabric failed (NVML status {fabric.status})"
        yield Observation("fail", text, "journalctl -u nvidia-fabricmanager shows the reason")
    for row in table("devices")["fabric_health"]:
        if fabric.health >> row["shift"] & row["mask"] in row["bad"]:
            yield Observation(
                row["status"], f"{card.pci}: {row['text']}", "journalctl -u nvidia-fabricmanager shows the reason"
            )


run = nvidia_check(evaluate, fabric=Fabric(state=3, status=999, health=0))
