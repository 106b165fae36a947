"""Firewalls are changed last, when it is known who connects to which host."""

from provision.features.firewall.firewall import apply, wants_rules
from provision.run.context import RunContext
from provision.run.step import Step


def _has_rules(context: RunContext) -> bool:
    """Return whether hosts may need rules, or have some of an earlier run."""
    found = [facts.installed for facts in context.result.facts.values()]
    return wants_rules(context) or any(installed and installed.firewall for installed in found)


STEP = Step("firewall", apply, "serve", "all", applies=_has_rules, after="serve", rank=3)
