"""Properties of every host, tested with random hosts."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from provision.catalog import catalog
from provision.catalog.versions import release
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.phases.plan import choose_stacks
from provision.phases.plan.build_option import options
from provision.phases.plan.evaluation import evaluate
from provision.phases.plan.profile_builder import profile_of
from provision.phases.plan.what_if import parse_what_if
from tests.catalog.consistency import tables
from tests.plan import strategies
from tests.plan.cases import CASES
from tests.plan.checker import CARDS, LAST_BRANCH, broken

ORDERED = {"generations", "managed_pythons", "platform_backends", "levels", "system_needs"}
"""Tables whose order has a meaning."""

many = hypothesis_settings(max_examples=120, deadline=None)
some = hypothesis_settings(max_examples=15, deadline=None)


@given(line=strategies.hosts, settings=strategies.settings)
@example(line="gpu=H100x1", settings=Settings(vllm="==0.11.2", attention="FLASHINFER"))
@many
def test_no_stack_breaks_a_rule_and_a_refusal_has_a_reason_and_a_remedy(line: str, settings: Settings) -> None:
    facts = parse_what_if(line)
    resolution = choose_stacks({"h": facts}, {"h": settings}).classes[0]
    stacks = [candidate.stack for candidate in resolution.candidates if candidate.stack]
    for stack in stacks:
        assert broken(stack, facts) == []
    if resolution.stack is None:
        assert not stacks
        assert any(reason.verdict == "reject" for reason in resolution.reasons)
        assert resolution.nearest is not None
    else:
        assert resolution.candidates[0].stack == resolution.stack


def test_the_checker_finds_broken_stacks() -> None:
    facts = described("RTX5090x1", "570.133.20")
    good = choose_stacks({"h": facts}, {"h": Settings()}).classes[0].stack
    assert good is not None
    assert good.vllm is not None
    assert broken(good, facts) == []
    newer = good.model_copy(update={"vllm": good.vllm.model_copy(update={"version": "0.33.0", "variant": "cu130"})})
    found = "; ".join(broken(newer, facts))
    assert "torch is not the pinned one" in found
    assert "CUDA majors differ" in found
    assert "is PTX of 13.0" in found
    assert "outside" in found


@given(line=strategies.nvidia_hosts, settings=strategies.settings)
@some
def test_the_nearest_change_gives_a_stack(line: str, settings: Settings) -> None:
    facts = parse_what_if(line)
    resolution = choose_stacks({"h": facts}, {"h": settings}).classes[0]
    if resolution.nearest and resolution.nearest.policy:
        policy: dict[str, Any] = dict(resolution.nearest.policy)
        if policy.get("gpus", "all") != "all":
            policy["gpus"] = json.loads(policy["gpus"])
        changed = Settings.model_validate({**settings.model_dump(), **policy})
        assert choose_stacks({"h": facts}, {"h": changed}).classes[0].stack is not None


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Reorder the rows of the tables; caches computed from them are cleared before and after."""
    found = catalog()
    kept = tables(found)
    generator = random.Random(seed)
    try:
        for name, table in kept.items():
            if isinstance(table, tuple) and name not in ORDERED:
                found.__dict__[name] = tuple(generator.sample(table, len(table)))
        forget()
        yield
    finally:
        found.__dict__.update(kept)
        forget()


def forget() -> None:
    for name, module in list(sys.modules.items()):
        if name.startswith("provision.phases.plan"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@given(seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=5, deadline=None)
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    chosen = random.Random(seed).sample(CASES, 12)
    before = [case.resolution().stack for case in chosen]
    with shuffled(seed):
        assert [case.resolution().stack for case in chosen] == before


@given(lines=st.lists(strategies.hosts, min_size=1, max_size=4), order=st.randoms())
@some
def test_equal_hosts_are_one_class_in_any_order(lines: list[str], order: Any) -> None:
    facts = {f"{place}-{copy}": parse_what_if(line) for place, line in enumerate(lines) for copy in range(3)}
    names = list(facts)
    order.shuffle(names)
    found = choose_stacks({name: facts[name] for name in names}, dict.fromkeys(names, Settings()))
    by_line = {frozenset(name for name in facts if facts[name] == facts[first]) for first in facts}
    together = {frozenset(resolution.hosts) for resolution in found.classes}
    assert all(any(group <= others for others in together) for group in by_line)
    alone = choose_stacks({"h": facts[names[0]]}, {"h": Settings()}).classes[0]
    assert found.for_host(names[0]).stack == alone.stack


def test_facts_that_no_rule_reads_make_no_class() -> None:
    facts = next(case.facts for case in CASES if case.name == "first-users-i7-10700k")
    other = facts.model_copy(
        update={
            "host": "other",
            "probed_at": "2026-01-01T00:00:00.000Z",
            "os": facts.os.model_copy(update={"hostname": "other", "boot_id": "1", "kernel": "6.1.0-30-amd64"}),
            "memory": facts.memory.model_copy(update={"available": 1}),
            "disks": tuple(disk.model_copy(update={"free": (disk.free or 0) - 12345}) for disk in facts.disks),
        }
    )
    assert len(choose_stacks({"a": facts, "b": other}, dict.fromkeys("ab", Settings())).classes) == 1


def described(cards: str, driver: str) -> HostFacts:
    return parse_what_if(f"gpu={cards} driver={driver} glibc=2.35 arch=x86_64 python=3.10")


def builds(cards: str, driver: str, **settings: Any) -> set[tuple[str, str]]:
    """Return the releases and variants that are accepted on a host with these cards."""
    profile = profile_of(described(cards, driver), Settings(**settings))
    return {
        (option.id.split("-")[1], option.variant) for option in options(profile) if evaluate(option, profile).accepted
    }


def drives(driver: str, cards: str) -> bool:
    """Return whether a driver's branch still supports every card of a description."""
    found = [CARDS[part.rpartition("x")[0].lower()]["compute_capability"] for part in cards.split(",")]
    return all(int(driver.split(".", maxsplit=1)[0]) <= (LAST_BRANCH[capability] or 10_000) for capability in found)


def test_a_branch_without_support_for_the_card_runs_nothing() -> None:
    assert builds("V100x1", "580.178.04")
    assert not builds("V100x1", "595.71.05")


@given(cards=strategies.cards, older=strategies.drivers, newer=strategies.drivers)
@some
def test_a_newer_driver_never_loses_a_build(cards: str, older: str, newer: str) -> None:
    if release(older) > release(newer):
        older, newer = newer, older
    assume(drives(newer, cards))
    assert builds(cards, older) <= builds(cards, newer)


@given(first=st.sampled_from(strategies.CARDS), second=st.sampled_from(strategies.CARDS), driver=strategies.drivers)
@some
def test_another_card_that_serves_never_gains_a_build(first: str, second: str, driver: str) -> None:
    assert builds(f"{first}x1,{second}x1", driver, gpus=(0, 1)) <= builds(f"{first}x1", driver)


@given(first=st.sampled_from(strategies.CARDS), second=st.sampled_from(strategies.CARDS), driver=strategies.drivers)
@some
def test_a_card_that_does_not_serve_changes_nothing(first: str, second: str, driver: str) -> None:
    mixed = f"{first}x1,{second}x1"
    kinds = {card.index for card in profile_of(described(mixed, driver), Settings()).cards}
    alone = f"{first if 0 in kinds else second}x{len(kinds)}"
    assert builds(mixed, driver) == builds(alone, driver)
