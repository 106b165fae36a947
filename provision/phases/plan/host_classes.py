"""The plan of all hosts. Hosts with equal profiles form one class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from provision.core.errors import UsageError
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan
from provision.phases.plan.choose import choose
from provision.phases.plan.fit import Shape
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.profile_builder import profile_of


def plan(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> Plan:
    """Return the plan for all hosts, in the given order. It reads the catalog, but no network and no clock.

    Args:
        facts: Facts by host.
        settings: Settings by host.
        become: Hosts on which the inventory lets installation become root.
        shapes: The users' models, by their name in the settings.

    Raises:
        UsageError: Two settings of a host contradict each other.

    """
    found = classes(facts, settings, become=become, shapes=shapes)
    return Plan(classes=tuple(choose(profile, tuple(hosts)) for profile, hosts in found.items()))


def classes(
    facts: Mapping[str, HostFacts],
    settings: Mapping[str, Settings],
    *,
    become: Collection[str] = (),
    shapes: Mapping[str, Shape] = MappingProxyType({}),
) -> dict[HostProfile, list[str]]:
    """Return the hosts by profile, in the given order. Arguments and errors are those of `plan`."""
    found: dict[HostProfile, list[str]] = {}
    for name, host_facts in facts.items():
        try:
            shape = shapes.get(settings[name].model)
            profile = profile_of(host_facts, settings[name], escalates=name in become, shape=shape)
        except UsageError as error:
            raise UsageError(f"host `{name}`: {error.text}", hint=error.hint) from None
        found.setdefault(profile, []).append(name)
    return found
