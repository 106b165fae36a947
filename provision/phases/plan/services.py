"""What each of several services of a machine gets of it: GPUs, or a part of the memory and the processors of a CPU host. Pure.

GPUs that a service names are its own. Of the others each service first gets the fewest on which its model fits; those that are left go,
one service after another in the inventory's order, to the services whose models can be split over more. The service that needs the most
chooses first: GPUs of one NVLink group if it has enough of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.phases.plan.cards import amd_cards, nvidia_cards, serving
from provision.phases.plan.fit.result import fit
from provision.phases.plan.fit.shape import Shape, shape_for
from provision.phases.plan.profile_builder import profile_of


def part_of(host: Host, facts: HostFacts) -> HostFacts:
    """Return the facts as a service sees them: on a CPU host an equal part of the memory and the processors."""
    count = len(host.services)
    if count == 1 or nvidia_cards(facts) or amd_cards(facts):
        return facts
    sizes = {
        name: size // count for name, size in facts.memory if name in ("total", "available", "cgroup_limit") and size
    }
    logical = max(facts.cpu.logical // count, 1) if facts.cpu.logical else None
    return facts.model_copy(
        update={
            "memory": facts.memory.model_copy(update=sizes),
            "cpu": facts.cpu.model_copy(update={"logical": logical}),
        }
    )


def with_gpus(host: Host, facts: HostFacts, shapes: Mapping[str, Shape]) -> Settings:
    """Return the settings of a host; of one of several services with the GPUs that it gets.

    Args:
        shapes: The models of all its services, by their name in the settings.

    Raises:
        InventoryError: There are too few GPUs for all services, or they are in MIG mode.
    """
    cards = nvidia_cards(facts) or amd_cards(facts)
    if host.service is None or host.settings.gpus != "all" or not cards:
        return host.settings
    if split := [card.index for card in cards if card.mig]:
        raise InventoryError(
            f"host `{host.machine}` has several services, and MIG mode is on at GPU {', '.join(map(str, split))}: only whole GPUs are divided among services",
            hint="switch MIG off there, or name the other GPUs for each service: gpus",
        )
    named = {index for _, one in host.services if one.gpus != "all" for index in one.gpus}
    free = [card.index for card in serving(tuple(card for card in cards if card.index not in named))]
    claims = [
        _Claim(name, _sizes(facts, one, shape_for(one, shapes), free))
        for name, one in host.services
        if one.gpus == "all"
    ]
    if (least := sum(claim.size for claim in claims)) > len(free):
        needs = " and ".join(f"`{claim.name}` at least {claim.size}" for claim in claims)
        raise InventoryError(
            f"host `{host.machine}`: {len(free)} GPUs are free for its services, and {least} are needed: {needs}",
            hint="serve smaller models there, or fewer of them",
        )
    _widen(claims, len(free))
    groups = nvlink_groups(facts, free)
    for claim in sorted(claims, key=lambda claim: -claim.size):
        claim.cards = _chosen(groups, claim.size)
        groups = [[index for index in group if index not in claim.cards] for group in groups]
    own = next(claim for claim in claims if claim.name == host.name)
    return host.settings.model_copy(update={"gpus": tuple(sorted(own.cards))})


@dataclass
class _Claim:
    """What a service wants of the GPUs that none names."""

    name: str
    sizes: list[int]
    """Numbers of GPUs that it can use, ascending."""
    cards: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.sizes[0]


def _widen(claims: Sequence[_Claim], free: int) -> None:
    """Let services take more GPUs, one after another, while a larger size of one fits."""
    left, has_changed = free - sum(claim.size for claim in claims), True
    while has_changed:
        has_changed = False
        for claim in claims:
            if len(claim.sizes) > 1 and claim.sizes[1] - claim.size <= left:
                left -= claim.sizes[1] - claim.size
                del claim.sizes[0]
                has_changed = True


def _sizes(facts: HostFacts, settings: Settings, shape: Shape | None, free: Sequence[int]) -> list[int]:
    """Return the numbers of GPUs that a service can use, ascending; one that is too large for all of them too, so that the plan refuses it."""
    others = settings.pipeline(on_cpu=False) * settings.data_parallel
    if settings.tensor_parallel or shape is None:
        return [(settings.tensor_parallel or 1) * others]
    found = []
    for count in range(others, len(free) + 1, others):
        # Whether a model fits does not depend on the release, which may be a wheel that is not read here.
        tried = settings.model_copy(update={"gpus": tuple(free[:count]), "vllm": "latest"})
        profile = profile_of(facts, tried, shape=shape)
        served, budget = profile.served_model, profile.budget
        if served is None or budget is None:
            return [others]
        one = fit(served.shape, served.request, budget)
        if one.problem is None and one.tensor * others == count:
            found.append(count)
    return found or [max(len(free), 1)]


def nvlink_groups(facts: HostFacts, indexes: Sequence[int]) -> list[list[int]]:
    """Return GPUs in groups that NVLinks join, in PCI order; one without links is a group of its own."""
    links = facts.topology.nvlinks if facts.topology else {}
    joined = {frozenset(map(int, pair.split("-"))) for pair, count in links.items() if count}
    groups: list[list[int]] = []
    for index in indexes:
        near = [group for group in groups if any(frozenset((index, other)) in joined for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append(sorted([index, *(other for group in near for other in group)]))
    return sorted(groups)


def _chosen(groups: Sequence[Sequence[int]], size: int) -> list[int]:
    """Return GPUs of the smallest group that has enough; without one those of the largest groups, one after another."""
    enough = [group for group in groups if len(group) >= size]
    if enough:
        return [*min(enough, key=len)[:size]]
    return [index for group in sorted(groups, key=len, reverse=True) for index in group][:size]
