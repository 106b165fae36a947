"""From facts and settings by host to the plan: hosts that rules cannot tell apart are one class."""

from __future__ import annotations

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan
from provision.phases.plan.choose import choose
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.profile_builder import profile_of

if TYPE_CHECKING:
    from provision.phases.plan.fit import Shape


def plan(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> Plan:
    """The plan for all hosts, in the order given; no network, no clock, no file but the catalog's tables.

    `become` names the hosts on which the inventory lets installing act as root, beside those whose facts say so;
    `shapes` has the models that are to fit, by the name that the settings call them.
    Raises UsageError when settings of a host contradict each other.
    """
    with _uncollected():
        found = classes(facts, settings, become=become, shapes=shapes)
        return Plan(classes=tuple(choose(profile, tuple(hosts)) for profile, hosts in found.items()))


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles: planning makes none and keeps what it makes, which would be walked again and again.

    For 1,000 hosts that was a quarter of the processor's time. What was made then counts as old, by freezing all for a moment:
    else the collector would run it as soon as it is let loose.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def classes(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> dict[HostProfile, list[str]]:
    """The names of hosts by what rules see of them, in the order given. Raises UsageError as `plan` does."""
    found: dict[HostProfile, list[str]] = {}
    for name, seen in facts.items():
        try:
            shape = shapes.get(settings[name].model)
            profile = profile_of(seen, settings[name], escalates=name in become, shape=shape)
        except UsageError as error:
            raise UsageError(f"host `{name}`: {error.text}", hint=error.hint) from None
        found.setdefault(profile, []).append(name)
    return found
