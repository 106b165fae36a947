"""Interfaces that connect hosts, and the evaluation of the answers of a multihost trial."""

from typing import Any

import pytest

from provision.features.multinode.interface_map import (
    AllReduceTrial,
    best,
    evaluate_trials,
    interface_maps,
    obstacles,
    tournament,
)

MBIT_S = {"eno1": 1000, "ens2": 100_000}
"""Link speeds of interfaces; unknown of others."""


def hello(own_name: str = "10.0.0.1", **named: str) -> dict[str, Any]:
    """Return the hello of a host whose interfaces have these addresses, `eth0="10.0.0.1/24"`."""
    found = [
        {
            "name": name,
            "address": at.partition("/")[0],
            "network": f"{at.rpartition('.')[0]}.0/24",
            "mbit_s": MBIT_S.get(name),
        }
        for name, at in named.items()
    ]
    return {
        "interfaces": found,
        "own_name": own_name,
        "gpus": 0,
        "ports": [29610, 29649],
        "ephemeral": [32768, 60999],
        "listens": [29610, 40001],
        "token": "t",
    }


def met(
    interface_map: dict[str, str], *, backend: str = "gloo", bandwidth: float = 1e9, wrong: int = 0
) -> AllReduceTrial:
    answer = {"wrong": wrong, "latency": 8.5e-5, "bandwidth": bandwidth}
    return AllReduceTrial(interface_map, backend, dict.fromkeys(interface_map, answer))


def reached_all(*hosts: str, interface: str = "eth0", **instead: str) -> dict[str, dict[str, dict[str, str]]]:
    """Return results in which all hosts reach each other, except that `a_b="refused"` is the result of a's call to b."""
    return {
        caller: {host: {interface: instead.get(f"{caller}_{host}", "reached")} for host in hosts if host != caller}
        for caller in hosts
    }


BOTH = {"a": "eth0", "b": "eth0"}
TWO = {"a": hello(eth0="10.0.0.1/24"), "b": hello(eth0="10.0.0.2/24")}


def test_an_interface_map_has_one_name_or_one_network_on_all_hosts() -> None:
    one = hello(eth0="10.0.0.1/24", ib0="10.9.0.1/24", docker0="172.17.0.1/16")
    two = hello(ens3="10.0.0.2/24", ib0="10.9.0.2/24")
    assert interface_maps({"a": one, "b": two}) == [{"a": "eth0", "b": "ens3"}, {"a": "ib0", "b": "ib0"}]
    assert interface_maps({"a": one, "b": hello()}) == []


@pytest.mark.parametrize("count", range(2, 12))
def test_in_a_tournament_each_host_meets_all_others_once_up_to_seven(count: int) -> None:
    hosts = [f"host{number}" for number in range(count)]
    turns = tournament(hosts, [])
    assert all(len({host for pair in turn for host in pair}) == 2 * len(turn) for turn in turns)
    pairs = [frozenset(pair) for turn in turns for pair in turn]
    assert len(pairs) == len(set(pairs))
    met = [sum(host in pair for pair in pairs) for host in hosts]
    assert (min(met) >= min(count - 1, 6), max(met) <= 7, len(turns) <= 7) == (True, True, True)
    if count <= 8:
        assert len(pairs) == count * (count - 1) // 2
    assert {host for turn in turns[:2] for pair in turn for host in pair} == set(hosts), (
        "what is tried on all interfaces"
    )


def test_pairs_that_were_tried_are_left_out_of_a_tournament() -> None:
    assert tournament(["a", "b"], [{"b", "a"}]) == []
    ring = [{"a", "b"}, {"b", "c"}, {"c", "d"}, {"d", "a"}]
    assert tournament(["a", "b", "c", "d"], ring) == [[("a", "c"), ("d", "b")]]


def test_the_faster_of_two_interface_maps_is_chosen_and_named() -> None:
    ib = {"a": "ib0", "b": "ib0"}
    hellos = {"a": hello(eth0="10.0.0.1/24", ib0="10.9.0.1/24"), "b": hello(eth0="10.0.0.2/24", ib0="10.9.0.2/24")}
    trials = [met(BOTH), met(ib, bandwidth=9e9)]
    assert best(trials) == ib
    outcome = evaluate_trials(hellos, reached_all("a", "b"), trials, {})
    assert outcome.status == "ok"
    assert outcome.reason == (
        "2 hosts meet on ib0, every number exact: gloo 85 µs, 9.00 GB/s; NCCL_SOCKET_IFNAME==ib0 GLOO_SOCKET_IFNAME=ib0"
    )
    assert outcome.evidence["settings"]["b"] == {"NCCL_SOCKET_IFNAME": "=ib0", "GLOO_SOCKET_IFNAME": "ib0"}
    assert [(figure.name.partition(",")[0], figure.value, figure.unit) for figure in outcome.figures] == [
        ("gloo", 85.0, "us"),
        ("gloo", 9.0, "GB/s"),
    ]


def test_interfaces_with_different_names_are_listed_by_host() -> None:
    interface_map = {"a": "eth0", "b": "ens3"}
    outcome = evaluate_trials({"a": TWO["a"], "b": hello(ens3="10.0.0.2/24")}, {}, [met(interface_map)], {})
    assert outcome.reason == (
        "2 hosts meet on eth0 of a, ens3 of b, every number exact: gloo 85 µs, 1.00 GB/s; "
        "NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME are these names"
    )
    assert outcome.evidence["settings"]["b"]["GLOO_SOCKET_IFNAME"] == "ens3"


def test_interfaces_on_which_one_pair_is_not_connected_are_not_chosen() -> None:
    three = dict.fromkeys("abc", "ib0")
    broken = AllReduceTrial(three, "gloo", {"b": {"problem": "timed out"}, "c": {"problem": "timed out"}})
    assert best([met(three, bandwidth=9e9), broken]) is None
    assert best([met(three, bandwidth=9e9), broken, met(dict.fromkeys("abc", "eth0"))]) == dict.fromkeys("abc", "eth0")


@pytest.mark.parametrize(
    ("slow", "fast", "down", "warned"),
    [
        ("eno1", "ens2", {}, True),
        ("eno1", "ens2", {"ens2": "10.9.0.3/24"}, True),
        ("eno1", "ib0", {}, True),
        ("ens2", "eno1", {}, False),
    ],
    ids=["no address", "an address that nobody reaches", "InfiniBand", "a slower one"],
)
def test_a_host_whose_fast_interface_is_down_is_named(slow: str, fast: str, down: dict[str, str], warned: bool) -> None:
    hellos = {
        host: hello(**{slow: f"10.0.0.{last}/24"} | ({fast: f"10.9.0.{last}/24"} if host != "c" else down))
        for last, host in enumerate("abc", 1)
    }
    reached = reached_all("a", "b", "c", interface=slow)
    for caller, host in (("a", "b"), ("b", "a")):
        reached[caller][host][fast] = "reached"
    outcome = evaluate_trials(hellos, reached, [met(dict.fromkeys("abc", slow))], {})
    assert outcome.status == ("warn" if warned else "ok")
    assert (outcome.reason == f"2 of 3 hosts meet on {fast}, c not; all meet on {slow}") is warned


def test_an_interface_with_another_name_in_the_same_network_is_not_down() -> None:
    hellos = {"a": hello(eth0="10.0.0.1/24"), "b": hello(eth0="10.0.0.2/24"), "c": hello(ens3="10.0.0.3/24")}
    reached = reached_all("a", "b", "c")
    reached["a"]["c"] = reached["b"]["c"] = {"ens3": "reached"}
    assert evaluate_trials(hellos, reached, [met({"a": "eth0", "b": "eth0", "c": "ens3"})], {}).status == "ok"


def test_names_that_resolve_to_the_loopback_make_the_setting_necessary() -> None:
    hellos = {"a": hello("127.0.1.1", eth0="10.0.0.1/24"), "b": hello(eth0="10.0.0.2/24")}
    outcome = evaluate_trials(hellos, reached_all("a", "b"), [met(BOTH)], {})
    assert outcome.status == "ok"
    assert outcome.reason.endswith(
        "GLOO_SOCKET_IFNAME=eth0; unset, gloo announces 127.0.1.1 on a, since the name resolves to it"
    )


def test_a_connection_in_one_direction_only_does_not_count_and_the_caller_is_named() -> None:
    seen = reached_all("a", "b", b_a="no answer within 3 s")
    assert obstacles(BOTH, seen) == ["b to a's eth0: no answer within 3 s"]
    outcome = evaluate_trials(TWO, seen, [], {})
    assert (outcome.status, outcome.reason) == (
        "warn",
        "no interface joins the 2 hosts: eth0: b to a's eth0: no answer within 3 s",
    )
    assert "29610-29649" in (outcome.remedy or "")
    assert "32768-60999" in (outcome.remedy or "")
    assert outcome.evidence["not_reached"] == {"b": {"a": {"eth0": "no answer within 3 s"}}}


def test_bridges_with_the_same_address_on_both_hosts_connect_nothing() -> None:
    hellos = {"a": hello(docker0="172.17.0.1/16"), "b": hello(docker0="172.17.0.1/16")}
    seen = reached_all("a", "b", interface="docker0", a_b="leads back to itself", b_a="leads back to itself")
    outcome = evaluate_trials(hellos, seen, [], {})
    assert outcome.status == "warn"
    assert "a to b's docker0: leads back to itself" in outcome.reason


def test_a_host_without_an_address_and_hosts_without_a_common_network_are_reported() -> None:
    outcome = evaluate_trials({**TWO, "c": hello()}, {}, [], {})
    assert (outcome.status, outcome.reason) == ("warn", "no interface that leads out of the host has an address: c")
    apart = {"a": hello(eth0="10.0.0.1/24"), "b": hello(ens3="10.1.0.1/24", ens4="10.9.9.9/24")}
    assert (
        evaluate_trials(apart, {}, [], {}).reason == "no interface has the same name or the same network on all 2 hosts"
    )


def test_hosts_that_connect_and_cannot_exchange_data_are_reported_with_torchs_error() -> None:
    failed = AllReduceTrial(
        BOTH, "gloo", {"a": {"problem": "Gloo connectFullMesh failed"}, "b": {"problem": "timed out"}}
    )
    outcome = evaluate_trials(TWO, reached_all("a", "b"), [failed], {})
    assert (outcome.status, outcome.reason) == (
        "warn",
        "hosts reach one another and cannot exchange: a: Gloo connectFullMesh failed; b: timed out",
    )


def test_one_wrong_number_is_a_failure_whatever_else_passed() -> None:
    ib = {"a": "ib0", "b": "ib0"}
    outcome = evaluate_trials(TWO, reached_all("a", "b"), [met(BOTH), met(ib, wrong=1)], {})
    assert (outcome.status, outcome.reason) == (
        "fail",
        "gloo gives wrong numbers on ib0 between a and b: 1 on a, 1 on b",
    )


def test_the_result_of_nccl_is_reported_in_addition_to_gloo() -> None:
    def evaluated(nccl: AllReduceTrial) -> tuple[str, str]:
        outcome = evaluate_trials(TWO, reached_all("a", "b"), [met(BOTH), nccl], {})
        return outcome.status, outcome.reason

    assert evaluated(met(BOTH, backend="nccl", bandwidth=4.5e10))[1].startswith(
        "2 hosts meet on eth0, every number exact: gloo 85 µs, 1.00 GB/s, NCCL over all GPUs 85 µs, 45.00 GB/s; NCCL_SOCKET_IFNAME==eth0"
    )
    failed = {"a": {"problem": "ncclSystemError"}, "b": {"problem": "ncclRemoteError"}}
    assert evaluated(AllReduceTrial(BOTH, "nccl", failed)) == (
        "warn",
        "gloo meets on eth0, NCCL does not: a: ncclSystemError; b: ncclRemoteError",
    )
    full = {"skip": "0.5 GiB of a GPU are free"}
    status, reason = evaluated(AllReduceTrial(BOTH, "nccl", {"a": full, "b": full}))
    assert status == "ok"
    assert "NCCL not tried: 0.5 GiB of a GPU are free" in reason


def pairs(backend: str = "gloo", **speeds: float) -> list[AllReduceTrial]:
    """Return trials of neighbours in bytes per second, `ab=1e9`, all on eth0."""
    every = dict.fromkeys(sorted({host for pair in speeds for host in pair}), "eth0")
    return [
        AllReduceTrial(every, backend, {host: {"wrong": 0, "latency": 8.5e-5, "bandwidth": speed} for host in pair})
        for pair, speed in speeds.items()
    ]


SPEEDS = {
    "alike": (pairs(ab=1e9, bc=0.95e9, cd=1.02e9, ad=0.7e9), "4 hosts meet on eth0"),
    "a pair alone": (pairs(ab=1e7), "2 hosts meet on eth0"),
    "one link": (
        pairs(ab=1e9, bc=0.95e9, cd=0.11e9, ad=1e9),
        "gloo between c and d reaches 0.11 GB/s on eth0, the median of 4 pairs is 0.97 GB/s",
    ),
    "one link of all pairs": (
        pairs(ab=1e9, ac=1e9, ad=0.3e9, bc=1e9, bd=1e9, cd=1e9),
        "gloo between a and d reaches 0.30 GB/s on eth0, the median of 6 pairs is 1.00 GB/s",
    ),
    "by NCCL only": (
        [*pairs(ab=1e9, bc=1e9, ac=1e9), *pairs("nccl", ab=4.5e10, bc=4.4e10, ac=1e10)],
        "nccl between a and c reaches 10.00 GB/s on eth0, the median of 3 pairs is 44.00 GB/s",
    ),
    "one host": (
        pairs(ab=1e9, bc=0.1e9, cd=0.1e9, de=1e9, ae=1e9),
        "gloo on c reaches at most 0.10 GB/s on eth0 in each of its 2 pairs, the fastest pair reaches 1.00 GB/s",
    ),
    "one host and a link of others": (
        pairs(ab=0.5e9, ac=0.5e9, ad=0.5e9, bc=1e9, bd=1e9, cd=0.4e9),
        "gloo on a reaches at most 0.50 GB/s on eth0 in each of its 3 pairs, the fastest pair reaches 1.00 GB/s; gloo between c and d",
    ),
}


@pytest.mark.parametrize("case", SPEEDS)
def test_a_pair_far_below_the_median_is_named(case: str) -> None:
    trials, reason = SPEEDS[case]
    outcome = evaluate_trials(dict.fromkeys(trials[0].interface_map, TWO["a"]), {}, trials, {})
    status = "ok" if "hosts meet" in reason else "warn"
    assert (outcome.status, outcome.reason.startswith(reason)) == (status, True), outcome.reason
    assert outcome.evidence["settings"]["a"]["NCCL_SOCKET_IFNAME"] == "=eth0"
