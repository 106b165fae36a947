"""What each of several services of a machine gets of it: GPUs, or a part of the memory and the processors of a CPU host. Pure.

GPUs that a service names are its own. Of the others each service first gets the fewest on which its model fits; those that are left go,
one service after another in the inventory's order, to the services whose models can be split over more. The service that needs the most
chooses first: GPUs of one NVLink group if it has enough of them. Of GPUs in MIG mode each service gets one slice, the smallest on which its
model fits.
"""

from collections.abc import Mapping, Sequence

from provision.core.errors import InventoryError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.settings import Settings
from provision.phases.plan.cards import Card, amd_cards, is_found, nvidia_cards, serving
from provision.phases.plan.fit.result import Fit, fit
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


def deciding(host: Host, facts: HostFacts) -> list[Settings]:
    """Return the settings whose models decide on the plan of a host: its own, and where GPUs are divided those of all services of its machine."""
    every = [one for _, one in host.services] if _divides_gpus(host, facts) else [host.settings]
    return [one for one in every if one.serves_model]


def _divides_gpus(host: Host, facts: HostFacts) -> bool:
    return host.service is not None and host.settings.gpus == "all" and bool(nvidia_cards(facts) or amd_cards(facts))


def with_gpus(host: Host, facts: HostFacts, shapes: Mapping[str, Shape]) -> Settings:
    """Return the settings of a host; of one of several services with the GPUs that it gets.

    Args:
        shapes: The models that decide on its plan, by their name in the settings.

    Raises:
        InventoryError: There are too few GPUs or slices for all services.
    """
    if not _divides_gpus(host, facts):
        return host.settings
    cards = nvidia_cards(facts) or amd_cards(facts)
    named = {place for _, one in host.services if one.gpus != "all" for place in one.gpus}
    left = serving(tuple(card for card in cards if card.index not in named), shared=True)
    if any(card.mig for card in left):
        slices = [part for card in cards if card.index not in named for part in card.sliced()]
        place = _slice_of(host, facts, shapes, [part for part in slices if part.place not in named])
        return host.settings.model_copy(update={"gpus": (place,)})
    free = [card.index for card in left]
    sizes = {name: _sizes(facts, one, shape_for(one, shapes), free) for name, one in host.services if one.gpus == "all"}
    if (least := sum(found[0] for found in sizes.values())) > len(free):
        needs = " and ".join(f"`{name}` at least {found[0]}" for name, found in sizes.items())
        raise InventoryError(
            f"host `{host.machine}`: {len(free)} GPUs are free for its services, and {least} are needed: {needs}",
            hint=f"serve smaller models there, or fewer of them{', or name slices for some: gpus' if any(card.mig for card in cards) else ''}",
        )
    _widen(sizes, len(free))
    taken: dict[str, list[int]] = {}
    groups = nvlink_groups(facts, free)
    for name in sorted(sizes, key=lambda name: -sizes[name][0]):
        taken[name] = _chosen(groups, sizes[name][0])
        groups = [[index for index in group if index not in taken[name]] for group in groups]
    return host.settings.model_copy(update={"gpus": tuple(sorted(taken[host.name]))})


def _slice_of(host: Host, facts: HostFacts, shapes: Mapping[str, Shape], free: Sequence[Card]) -> int | str:
    """Return the slice that a service gets. The services that fewer slices suit choose first."""
    cards, claims = nvidia_cards(facts), []
    ordered = sorted(free, key=lambda part: part.memory_gib or 0)
    for name, one in host.services:
        if one.gpus != "all":
            continue
        shape = shape_for(one, shapes)
        seen = [part for part in ordered if one.runtime == "podman" or is_found(part, cards)]
        found = [
            part for part in seen if (tried := _tried(facts, one, shape, (part.place,))) is None or not tried.problem
        ]
        # The plan refuses a model that fits on none, with the reason.
        claims.append((name, found or seen[-1:]))
    taken: dict[str, int | str] = {}
    for name, found in sorted(claims, key=lambda claim: len(claim[1])):
        taken[name] = next((part.place for part in found if part.place not in taken.values()), "")
    if missing := [name for name, place in taken.items() if place == ""]:
        there = ", ".join(f"{part.place} ({part.part.profile if part.part else None})" for part in ordered) or "none"
        raise InventoryError(
            f"host `{host.machine}`: no slice of its GPUs is left for {' and '.join(f'`{name}`' for name in missing)}; free are {there}",
            hint="make more slices, serve smaller models, or set firstlight_runtime: podman, under which any slice can serve",
        )
    return taken[host.name]


def _widen(sizes: Mapping[str, list[int]], free: int) -> None:
    """Drop the smallest of the numbers of GPUs that a service can use, one service after another, while a larger one fits."""
    left, has_changed = free - sum(found[0] for found in sizes.values()), True
    while has_changed:
        has_changed = False
        for found in sizes.values():
            if len(found) > 1 and found[1] - found[0] <= left:
                left -= found[1] - found[0]
                del found[0]
                has_changed = True


def _sizes(facts: HostFacts, settings: Settings, shape: Shape | None, free: Sequence[int]) -> list[int]:
    """Return the numbers of GPUs that a service can use, ascending; one that is too large for all of them too, so that the plan refuses it."""
    others = settings.pipeline(on_cpu=False) * settings.data_parallel
    if settings.tensor_parallel or shape is None:
        return [(settings.tensor_parallel or 1) * others]
    found = []
    for count in range(others, len(free) + 1, others):
        one = _tried(facts, settings, shape, tuple(free[:count]))
        if one is None:
            return [others]
        if one.problem is None and one.tensor * others == count:
            found.append(count)
    return found or [max(len(free), 1)]


def _tried(facts: HostFacts, settings: Settings, shape: Shape | None, places: tuple[int | str, ...]) -> Fit | None:
    """Return how a model fits on GPUs or a slice; None if that is not known. It does not depend on the release, which may be a wheel that is not read here."""
    profile = profile_of(facts, settings.model_copy(update={"gpus": places, "vllm": "latest"}), shape=shape)
    served, budget = profile.served_model, profile.budget
    return fit(served.shape, served.request, budget) if served and budget else None


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
