"""The smallest change that makes a Stack possible. Each change is evaluated by the same rules."""

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import TypeAlias

from provision.catalog import catalog
from provision.catalog.versions import numbers
from provision.core.models.settings import typed
from provision.core.models.stack import Nearest, Reason
from provision.phases.plan import driver, flash, rocm
from provision.phases.plan.build_option import options
from provision.phases.plan.cards import serving
from provision.phases.plan.evaluation import Evaluation, evaluate, evaluate_host, evaluations
from provision.phases.plan.family.choices import AUTO, NONE
from provision.phases.plan.fit.result import alternatives
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.policy import LATEST, NEWEST, Policy
from provision.phases.plan.profile_builder import most_disk

Change: TypeAlias = tuple[str, dict[str, str], HostProfile]
"""A change as text, the settings that make it (empty if settings cannot), and the changed profile."""


def nearest(profile: HostProfile, *, kept: Collection[str] = ()) -> Nearest | None:
    """Return the first change, or pair of changes, with which a candidate is accepted; None if there is none.

    Args:
        kept: Settings that must not change.
    """
    single = []
    for text, policy, changed in _changes(profile):
        if policy.keys() & set(kept):
            continue
        if found := _first(changed):
            return Nearest(text=f"{text} this host could run {_named(found)}", policy=policy)
        single.append((text, policy, changed))
    for text, policy, changed in single:
        for other, more, both in _changes(changed):
            if not more.keys() & {*kept, *policy} and (found := _first(both)):
                alone = policy | more if policy and more else {}
                return Nearest(text=f"{text} and {other} this host could run {_named(found)}", policy=alone)
    return None


def upgrade_benefit(profile: HostProfile, best: Evaluation) -> Reason | None:
    """Return the newer release that a driver upgrade would allow, as a reason; None if there is none."""
    if (
        profile.policy.driver not in {"keep", "install"}
        or not profile.driver
        or profile.foreign_driver
        or best.option is None
        or best.option.release is None
    ):
        return None
    upgraded, known = replace(profile, policy=profile.policy.upgrading), best.option.release
    newer = takewhile(lambda option: option.release is not known, options(upgraded))
    accepted = (result for option in newer if (result := evaluate(option, upgraded)).accepted)
    found = next(accepted, None) if evaluate_host(upgraded).accepted else None
    if found is None:
        return None
    text = f"the driver stays at {profile.driver}; with `--driver upgrade` this host could run {_named(found)}"
    facts = {"driver": profile.driver, "offer": catalog().driver_offer.version}
    return Reason(rule="driver-policy", verdict="accept", candidate=best.option.id, facts=facts, text=text)


@lru_cache(maxsize=4096)
def _first(profile: HostProfile) -> Evaluation | None:
    """Return the best accepted candidate. Cached: two changes in either order, and changed hosts of a fleet, give equal profiles."""
    if not evaluate_host(profile).accepted:
        return None
    return next((result for result in evaluations(profile) if result.accepted), None)


def _named(result: Evaluation) -> str:
    option = result.option
    assert option is not None
    torch = f"torch {option.torch.version} ({option.torch_variant})"
    return f"vLLM {option.release.version} ({option.variant}) with {torch}" if option.release else torch


def _changes(profile: HostProfile) -> Iterator[Change]:
    """Yield every single change, cheapest first."""
    yield from _relaxed(profile)
    if profile.escalates is False:
        yield f"with {profile.way_to_root}", {}, replace(profile, escalates=True)
    if profile.lacking and profile.escalates is False:
        yield f"with {', '.join(profile.lacking)} installed", {}, replace(profile, lacking=())
    yield from _model_changes(profile)
    yield from _other_driver(profile)
    yield from _other_rocm(profile)
    if profile.policy.vllm not in {LATEST, NEWEST, "none"}:
        yield _setting(profile, "vllm", LATEST, replace(profile.policy, vllm=LATEST))
    yield from _more_memory(profile)
    yield from _other_cards(profile)
    if any(card.mig for card in profile.cards):
        without = tuple(replace(card, mig=False, slices=0) for card in profile.cards)
        yield "with MIG off", {}, replace(profile, cards=without)
    if profile.policy.wants_vllm and profile.policy.flash_attn not in {"bundled", "both"}:
        wanted = {"vllm": "none"} if profile.policy.attention == "auto" else {"vllm": "none", "attention": "auto"}
        policy = replace(profile.policy, vllm="none", attention="auto")
        yield "with `--vllm none`", wanted, replace(profile, policy=policy)


def _setting(profile: HostProfile, name: str, value: str, policy: Policy) -> Change:
    return f"with `{typed(name, value)}`", {name: value}, replace(profile, policy=policy)


def _relaxed(profile: HostProfile) -> Iterator[Change]:
    policy = profile.policy
    changes = [
        ("attention", "auto", replace(policy, attention="auto")),
        ("flash_attn", "auto", replace(policy, flash_attn="auto", flash_version=None)),
        ("torch", "managed", replace(policy, torch="managed", torch_version=None)),
        ("dtype", "auto", replace(policy, dtype="auto")),
    ]
    if policy.flash_attn in flash.WANTED:
        builder = policy.builder or flash.CONTROLLER
        changes = [
            ("builder", builder, replace(policy, builder=builder)),
            ("flash_attn_wheels", "community", replace(policy, flash_wheels="community")),
            *changes,
        ]
    for name, value, relaxed in changes:
        if relaxed != policy:
            yield _setting(profile, name, value, relaxed)
    if policy.python is not None:
        yield f"without `--set python={policy.python}`", {}, replace(profile, policy=replace(policy, python=None))
    if policy.gpus is not None:
        every = replace(policy, gpus=None)
        changed = replace(profile, policy=every, cards=serving(profile.usable), missing_gpus=())
        yield "with `--set gpus=all`", {"gpus": "all"}, changed


def _other_cards(profile: HostProfile) -> Iterator[Change]:
    """Yield each other kind of card, and of slice, alone."""
    kinds = dict.fromkeys(card.kind for card in profile.usable)
    whole = [tuple(card for card in profile.usable if card.kind == kind) for kind in kinds]
    slices = [part for card in profile.usable for part in card.sliced()]
    parts = [(part,) for part in {part.kind: part for part in reversed(slices)}.values()]
    for cards in (*whole, *parts):
        if cards != profile.cards:
            listed = json.dumps([card.place for card in cards])
            changed = replace(profile, cards=cards, missing_gpus=())
            yield f"with `{typed('gpus', listed)}`", {"gpus": listed}, changed


def _model_changes(profile: HostProfile) -> Iterator[Change]:
    """Yield the changes that let the model be served, and those that make it fit."""
    served = profile.served_model
    if served is None:
        return
    request = served.request
    if served.shape.match.code and not request.trust_remote_code:
        text = f"with `--set trust_remote_code=true`, if you trust the code of `{served.model}`,"
        trusting = replace(served, request=replace(request, trust_remote_code=True))
        yield text, {"trust_remote_code": "true"}, replace(profile, served_model=trusting)
    parsers = (
        ("tool_parser", request.tool_parser, replace(request, tool_parser=AUTO)),
        ("reasoning_parser", request.reasoning_parser, replace(request, reasoning_parser=AUTO)),
    )
    for name, setting, relaxed in parsers:
        if setting not in {AUTO, NONE}:
            changed = replace(profile, served_model=replace(served, request=relaxed))
            yield f"with `{typed(name, AUTO)}`", {name: AUTO}, changed
    if profile.budget:
        for change in alternatives(served.shape, served.request, profile.budget):
            smaller = replace(served, request=change.request, budget=change.budget)
            yield change.text, change.policy, replace(profile, served_model=smaller)


def _other_driver(profile: HostProfile) -> Iterator[Change]:
    policy = profile.policy
    if profile.driver_fault and not profile.foreign_driver and policy.driver == "keep":
        yield _setting(profile, "driver", "install", replace(policy, driver="install"))
    if profile.driver_fault:
        yield "with a driver that answers", {}, replace(profile, driver_fault=None)
    if not profile.foreign_driver:
        if policy.driver == "pinned" or (policy.driver != "upgrade" and profile.driver):
            yield _setting(profile, "driver", "upgrade", policy.upgrading)
        if policy.driver_source != "auto":
            yield _setting(profile, "driver_source", "auto", replace(policy, driver_source="auto"))
    if profile.driver or profile.driver_absent:
        enough = _enough_driver(profile)
        last = min((row.last_branch for row in driver.architectures(profile) if row.last_branch), default=None)
        until = f", up to branch {last}," if last else ""
        yield f"with driver {enough} or newer{until}", {}, replace(profile, driver=enough, driver_absent=False)


def _other_rocm(profile: HostProfile) -> Iterator[Change]:
    """Yield each ROCm that builds need and the host does not have, newest first."""
    if profile.platform != "rocm" or profile.rocm is None:
        return
    if profile.policy.driver != "upgrade" and rocm.can_upgrade(profile):
        yield _setting(profile, "driver", "upgrade", profile.policy.upgrading)
    for row in sorted(catalog().userspaces, key=lambda row: numbers(row.minimum), reverse=True):
        if not rocm.fits(row, profile.rocm):
            yield f"with ROCm {row.minimum} or newer, below {row.below},", {}, replace(profile, rocm=row.minimum)


def _enough_driver(profile: HostProfile) -> str:
    """Return the oldest driver for the candidate that the offered driver allows; the offered driver if it allows none."""
    offer = catalog().driver_offer.version
    best = _first(replace(profile, driver=offer, driver_absent=False))
    if best is None or best.option is None:
        return offer
    floors = [floor.driver for floor in driver.floors(best.option, profile)]
    return max(floors, key=numbers, default=offer)


def _more_memory(profile: HostProfile) -> Iterator[Change]:
    most = math.ceil(most_disk(profile.served_model))
    need = catalog().needs[profile.platform]
    if profile.disk_gib is not None or profile.incoming_gib is not None:
        text = "with more free disk (`firstlight_prefix` may name a larger one)"
        yield text, {}, replace(profile, disk_gib=most, incoming_gib=most)
    if profile.ram_gib is not None and profile.ram_gib < need.memory:
        yield f"with {need.memory:g} GiB of memory", {}, replace(profile, ram_gib=math.ceil(need.memory))
    newest = catalog().platform_tag.glibc[-1]
    if profile.libc == "musl":
        yield "on a distribution with glibc", {}, replace(profile, libc="glibc", glibc=newest)
    elif profile.glibc is not None:
        yield "with a distribution of newer glibc", {}, replace(profile, glibc=newest)
