"""The plan: a Stack for each class of hosts, chosen by rules from the catalog alone."""

from provision.phases.plan.choose import choose_stacks

__all__ = ["choose_stacks"]
