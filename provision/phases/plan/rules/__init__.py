"""The rules: each module of this folder is one, declared by the decorator of its function `evaluate`."""

from importlib import import_module
from pathlib import Path

from provision.phases.plan.rule import HostRule, Rule


def _find_rules() -> list[HostRule | Rule]:
    names = (path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    rules: list[HostRule | Rule] = [import_module(f"{__name__}.{name}").evaluate for name in names]
    return sorted(rules, key=lambda rule: (rule.order, rule.id))


_FOUND = _find_rules()
HOST_RULES = tuple(rule for rule in _FOUND if isinstance(rule, HostRule))
"""Rules on the host, in the order of their evaluation."""
RULES = tuple(rule for rule in _FOUND if isinstance(rule, Rule))
"""Rules on a candidate, in the order of their evaluation: cheap refusals first."""
