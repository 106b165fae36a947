"""The order of transfers between hosts: everybody gets everything, and neither the controller nor a host sends too often."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from provision.features.peers.relay import AT_ONCE, FIRST, HOPELESS, Member, Relay, Turn

FILES = frozenset("abc")


def equal(count: int, network: str = "") -> list[Member]:
    return [Member(f"host{number}", network, FILES) for number in range(count)]


def outcome(members: list[Member], seed: int, broken: frozenset[str] = frozenset(), least: int = 0) -> Counter[str]:
    """Run all transfers in an arbitrary order of their ends; return how often each source was used.

    `broken` serve nobody although they said so; `least` is the number of transfers that may be under way before one must end.
    """
    draw, relay = random.Random(seed), Relay(members)
    waiting, arrived, used = [member.name for member in members], set[str](), Counter[str]()
    under_way: dict[str, str | None] = {}
    while waiting or under_way:
        for name in draw.sample(waiting, len(waiting)):
            turn = relay.begin(name)
            if turn is not None:
                waiting.remove(name)
                under_way[name] = turn.source
                used[turn.source or "controller"] += 1
        busy = Counter(source for source in under_way.values() if source)
        assert max(busy.values(), default=0) <= AT_ONCE
        assert busy.keys() <= arrived, "a host serves only what it has"
        assert under_way, "nobody waits for a host that nobody sends to"
        for name in draw.sample(sorted(under_way), max(1, len(under_way) - least)):
            source = under_way.pop(name)
            refused = source in broken
            relay.received(name, refused=refused)
            used["controller instead"] += refused
            relay.end(name, serves=relay.is_wanted(name))
            arrived.add(name)
    assert arrived == {member.name for member in members}
    return used


@given(st.integers(1, 60), st.integers(), st.integers(0, 8))
def test_the_controller_sends_to_the_first_equal_hosts_alone(count: int, seed: int, least: int) -> None:
    used = outcome(equal(count), seed, least=least)
    assert used["controller"] == min(count, FIRST)
    assert used.total() == count


@given(
    st.lists(st.tuples(st.sampled_from(["", "one", "two"]), st.sets(st.sampled_from("abcdef"))), max_size=24),
    st.integers(),
    st.data(),
)
def test_every_host_gets_its_files_whatever_it_needs_and_whoever_fails(
    kinds: list[tuple[str, set[str]]], seed: int, data: st.DataObject
) -> None:
    members = [Member(f"host{number}", network, frozenset(letters)) for number, (network, letters) in enumerate(kinds)]
    broken = data.draw(st.frozensets(st.sampled_from([member.name for member in members]))) if members else frozenset()
    used = outcome(members, seed, broken)
    assert all(used[name] <= AT_ONCE for name in broken)


def test_hosts_that_do_not_reach_each_other_are_soon_sent_to_by_the_controller() -> None:
    used = outcome(equal(40), 1, frozenset(member.name for member in equal(40)))
    assert used["controller instead"] <= HOPELESS - 1 + AT_ONCE * FIRST
    assert used["controller"] + used["controller instead"] == 40


def test_hosts_of_other_networks_and_with_other_files_have_no_common_source() -> None:
    relay = Relay([Member("a", "", FILES), Member("b", "jump", FILES), Member("c", "", frozenset("ad"))])
    assert [relay.begin(name) for name in ("a", "b", "c")] == [Turn()] * 3


def test_a_host_with_all_of_the_files_and_more_is_a_source_and_one_with_less_is_none() -> None:
    relay = Relay([*(Member(f"more{number}", "", FILES | {"d"}) for number in range(2)), *equal(3)])
    assert [relay.begin(name) for name in ("more0", "more1", "host0")] == [Turn(), Turn(), None]
    relay.end("more0", serves=True)
    assert relay.begin("host0") == Turn("more0")
    less = Relay([*equal(2), Member("more", "", FILES | {"d"})])
    assert [less.begin(name) for name in ("host0", "host1", "more")] == [Turn()] * 3


def test_the_failure_of_the_first_hosts_lets_others_take_their_place() -> None:
    relay = Relay(equal(4))
    assert [relay.begin(f"host{number}") for number in range(4)] == [Turn(), Turn(), None, None]
    relay.fail("host0")
    relay.end("host1", serves=False)
    assert [relay.begin(name) for name in ("host2", "host3")] == [Turn(), Turn()]


def test_a_host_is_wanted_while_an_equal_one_waits() -> None:
    relay = Relay(equal(3))
    assert [relay.begin(f"host{number}") for number in range(3)] == [Turn(), Turn(), None]
    assert relay.is_wanted("host0")
    relay.fail("host1")
    relay.begin("host2")
    assert not relay.is_wanted("host0")
