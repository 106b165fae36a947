"""The smallest change that would open a Stack: tried one after another with the same rules, so that it is true."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

from provision.catalog import catalog
from provision.catalog.rows import Release
from provision.catalog.versions import numbers
from provision.core.models.stack import Nearest, Reason
from provision.phases.plan import driver, flash, flash_package
from provision.phases.plan.build_option import options
from provision.phases.plan.cards import AmdCard, AnyCard, Card, serving, serving_amd
from provision.phases.plan.evaluation import Judged, judge, judge_host, judged
from provision.phases.plan.host_profile import View, most_disk
from provision.phases.plan.policy import Policy


def nearest(view: View, *, kept: Collection[str] = ()) -> Nearest | None:
    """The first change, cheapest for a person first, with which some candidate is accepted: a single one, else two together.

    Settings named in `kept` are not changed. None when no two changes help.
    """
    single = []
    for text, policy, changed in _changes(view):
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


def upgrade_brings(view: View, best: Judged) -> Reason | None:
    """What a driver upgrade would bring to a host whose driver stays; None where it brings no newer release."""
    if (
        view.policy.driver not in {"keep", "install"}
        or not view.driver
        or view.foreign_driver
        or best.option is None
        or best.option.release is None
    ):
        return None
    found = _newer(replace(view, policy=_upgrading(view.policy)), best.option.release)
    if found is None:
        return None
    text = f"the driver stays at {view.driver}; with `driver: upgrade` this host could run {_named(found)}"
    facts = {"driver": view.driver, "offer": catalog().driver_offer.version}
    return Reason(rule="driver-policy", verdict="accept", candidate=best.option.id, facts=facts, text=text)


def _newer(view: View, known: Release) -> Judged | None:
    """The best candidate of a newer release than a known one; candidates come newest first."""
    if not judge_host(view).accepted:
        return None
    for option in options(view):
        if option.release is known:
            return None
        result = judge(option, view)
        if result.accepted:
            return result
    return None


@lru_cache(maxsize=4096)
def _first(view: View) -> Judged | None:
    """Kept: two changes give the same view in either order, and changed hosts of a fleet come to be alike."""
    if not judge_host(view).accepted:
        return None
    return next((result for result in judged(view) if result.accepted), None)


def _named(result: Judged) -> str:
    option = result.option
    assert option is not None
    torch = f"torch {option.torch.version} ({option.torch_variant})"
    return f"vLLM {option.release.version} ({option.variant}) with {torch}" if option.release else torch


def _changes(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    """Every single change: text, policy values, and the view with it."""
    yield from _relaxed(view)
    yield from _packages(view)
    yield from _fitting(view)
    yield from _other_driver(view)
    yield from _other_rocm(view)
    if view.policy.vllm not in {"latest", "none"}:
        yield "with `vllm: latest`", {"vllm": "latest"}, replace(view, policy=replace(view.policy, vllm="latest"))
    yield from _roomier(view)
    yield from _other_cards(view)
    if any(card.mig for card in view.cards):
        yield "with MIG off", {}, replace(view, cards=_whole(view.cards))
    if view.policy.wants_vllm and view.policy.flash_attn not in {"bundled", "both"}:
        wanted = {"vllm": "none"} if view.policy.attention == "auto" else {"vllm": "none", "attention": "auto"}
        yield "with `vllm: none`", wanted, replace(view, policy=replace(view.policy, vllm="none", attention="auto"))


def _relaxed(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    policy = view.policy
    defaults: tuple[tuple[str, str, Policy], ...] = (
        ("attention", "auto", replace(policy, attention="auto")),
        ("flash_attn", "auto", replace(policy, flash_attn="auto", flash_version=None)),
        ("torch", "managed", replace(policy, torch="managed")),
        ("dtype", "auto", replace(policy, dtype="auto")),
    )
    if policy.flash_attn in flash.WANTED and policy.builder is None:
        builder = flash_package.CONTROLLER
        built = replace(policy, builder=builder)
        yield f"with `builder: {builder}`", {"builder": builder}, replace(view, policy=built)
    if policy.flash_attn in flash.WANTED and policy.flash_wheels == "official":
        others = replace(policy, flash_wheels="community")
        yield "with `flash_attn_wheels: community`", {"flash_attn_wheels": "community"}, replace(view, policy=others)
    for name, value, changed in defaults:
        if changed != policy:
            yield f"with `{name}: {value}`", {name: value}, replace(view, policy=changed)
    if policy.python is not None:
        yield f"without `python: {policy.python}`", {}, replace(view, policy=replace(policy, python=None))
    if policy.gpus is not None:
        yield "with `gpus: all`", {"gpus": "all"}, _with_all_cards(view)


def _with_all_cards(view: View) -> View:
    policy = replace(view.policy, gpus=None)
    amd = serving_amd(view.present_amd) if view.platform == "rocm" else ()
    return replace(view, policy=policy, cards=serving(view.present), amd=amd, missing_gpus=())


def _other_cards(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    """Each kind of card alone that serves not at all, or not alone."""
    for cards in _kinds(view.present):
        if cards != view.cards:
            yield *_by_index(cards), replace(view, cards=cards, missing_gpus=())
    for amd in _kinds(view.present_amd if view.platform == "rocm" else ()):
        if amd != view.amd:
            yield *_by_index(amd), replace(view, amd=amd, missing_gpus=())


def _kinds(cards: tuple[AnyCard, ...]) -> list[tuple[AnyCard, ...]]:
    """Cards by kind."""
    return [tuple(card for card in cards if card.kind == kind) for kind in dict.fromkeys(card.kind for card in cards)]


def _by_index(cards: Sequence[Card | AmdCard]) -> tuple[str, dict[str, str]]:
    """Cards as a setting: its text, and the policy value."""
    listed = f"[{', '.join(str(card.index) for card in cards)}]"
    return f"with `gpus: {listed}`", {"gpus": listed}


def _whole(cards: tuple[Card, ...]) -> tuple[Card, ...]:
    return tuple(replace(card, mig=False, slices=0) for card in cards)


def _fitting(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    """What lets the model fit."""
    if view.load and view.room:
        from provision.phases.plan.fit import changes  # noqa: PLC0415 - only where a model of the user's is planned

        for change in changes(view.load.shape, view.load.asked, view.room):
            load = replace(view.load, shape=change.shape, asked=change.asked, room=change.room)
            yield change.text, change.policy, replace(view, load=load)


def _packages(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    if view.escalates is False and view.sudo:
        yield "with `ansible_become: true`", {}, replace(view, escalates=True)
    if view.lacking and view.escalates is False:
        yield f"with {', '.join(view.lacking)} installed", {}, replace(view, lacking=())


def _other_driver(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    if view.driver_fault and not view.foreign_driver and view.policy.driver == "keep":
        anew = replace(view.policy, driver="install")
        yield "with `driver: install`", {"driver": "install"}, replace(view, policy=anew)
    if view.driver_fault:
        yield "with a driver that answers", {}, replace(view, driver_fault=None)
    pinned = view.policy.driver == "pinned"
    if (pinned or (view.policy.driver != "upgrade" and view.driver)) and not view.foreign_driver:
        yield (
            "with `driver: upgrade`",
            {"driver": "upgrade"},
            replace(view, policy=_upgrading(view.policy)),
        )
    if view.policy.driver_source != "auto" and not view.foreign_driver:
        packages = replace(view.policy, driver_source="auto")
        yield "with `driver_source: auto`", {"driver_source": "auto"}, replace(view, policy=packages)
    if view.driver or view.driver_absent:
        enough = _enough_driver(view)
        last = min((row.last_branch for row in driver.architectures(view) if row.last_branch), default=None)
        until = f", up to branch {last}," if last else ""
        yield f"with driver {enough} or newer{until}", {}, replace(view, driver=enough, driver_absent=False)


def _other_rocm(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    """Each ROCm that builds run on and the host has not, the newest builds' first."""
    if view.platform != "rocm" or view.rocm is None:
        return
    for row in sorted(catalog().userspaces, key=lambda row: numbers(row.minimum), reverse=True):
        if not numbers(row.minimum) <= numbers(view.rocm)[:2] < numbers(row.below):
            yield f"with ROCm {row.minimum} or newer, below {row.below},", {}, replace(view, rocm=row.minimum)


def _upgrading(policy: Policy) -> Policy:
    return replace(policy, driver="upgrade", driver_version=None, driver_branch=None)


def _enough_driver(view: View) -> str:
    """The oldest driver with which the candidate fits that the offered one lets in; the offered one where none is let in."""
    offer = catalog().driver_offer.version
    best = _first(replace(view, driver=offer, driver_absent=False))
    if best is None or best.option is None:
        return offer
    floors = [floor.driver for floor in driver.floors(best.option, view.launch)]
    return max(floors, key=numbers, default=offer)


def _roomier(view: View) -> Iterator[tuple[str, dict[str, str], View]]:
    most = math.ceil(most_disk(view.load))
    need = catalog().needs[view.platform]
    if view.disk_gib is not None or view.incoming_gib is not None:
        yield (
            "with more free disk (`firstlight_prefix` may name a larger one)",
            {},
            replace(view, disk_gib=most, incoming_gib=most),
        )
    if view.ram_gib is not None and view.ram_gib < need.memory:
        yield f"with {need.memory:g} GiB of memory", {}, replace(view, ram_gib=math.ceil(need.memory))
    if view.libc == "musl":
        newest = catalog().platform_tag.glibc[-1]
        yield "on a distribution with glibc", {}, replace(view, libc="glibc", glibc=newest)
    elif view.glibc is not None:
        newest = catalog().platform_tag.glibc[-1]
        yield "with a distribution of newer glibc", {}, replace(view, glibc=newest)
