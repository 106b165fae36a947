"""Whether the steps that not every fleet needs have work: by what the run knows so far."""

from __future__ import annotations

from provision.pipeline.context import RunContext


def has_span(context: RunContext) -> bool:
    """Return whether the inventory has hosts that serve a model together."""
    return any(host.span for host in context.inventory.hosts)


def wants_rules(context: RunContext) -> bool:
    """Return whether the inventory has hosts for which a firewall is set."""
    return has_span(context) or any(host.is_gateway or host.is_monitoring for host in context.inventory.hosts)


def has_rules(context: RunContext) -> bool:
    """Return whether hosts may need rules, or have some of an earlier run."""
    found = [facts.installed for facts in context.result.facts.values()]
    return wants_rules(context) or any(installed and installed.firewall for installed in found)
