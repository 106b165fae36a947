"""The rules: functions of the modules of this folder, declared by their decorators."""

from importlib import import_module
from pathlib import Path

from provision.phases.plan.rule import HostRule, Rule

_MODULES = [import_module(f"{__name__}.{path.stem}") for path in Path(__file__).parent.glob("[!_]*.py")]
_FOUND = sorted(
    (found for module in _MODULES for found in vars(module).values() if isinstance(found, Rule)),
    key=lambda rule: (rule.order, rule.id),
)
HOST_RULES = tuple(rule for rule in _FOUND if isinstance(rule, HostRule))
"""Rules on the host, in the order of their evaluation."""
RULES = tuple(rule for rule in _FOUND if not isinstance(rule, HostRule))
"""Rules on a candidate, in the order of their evaluation: cheap refusals first."""
