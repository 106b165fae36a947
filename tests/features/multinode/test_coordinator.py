"""The coordinator of multihost trials: its requests to each host, and the result for a host that does not answer."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from provision.core.errors import TransportError
from provision.features.multinode.coordinator import meet
from provision.fleet.ssh.process import Channel
from tests.features.multinode.test_interface_map import hello

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class Part(Channel):
    """A host's side: it sends its hello and answers requests; None means no answer."""

    def __init__(
        self, host: str, greeting: Mapping[str, Any] | None, answer: Answer, heard: list[tuple[str, Any]]
    ) -> None:
        self.host, self.heard, self.answer = host, heard, answer
        self.lines = [json.dumps(greeting)] if greeting else []
        self.is_closed = False

    def readline(self, *, timeout_s: float) -> str:
        assert timeout_s >= 0
        return self.lines.pop(0) if self.lines else ""

    def writeline(self, line: str) -> None:
        asked = json.loads(line)
        self.heard.append((self.host, asked))
        answer = self.answer(asked)
        if answer is not None:
            self.lines.append(json.dumps(answer))

    def error_text(self) -> str:
        return "" if self.lines else "Traceback\nImportError: no torch"

    def close(self) -> None:
        self.is_closed = True


def well(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
    answers: dict[str, dict[str, Any] | None] = {
        "quit": None,
        "reach": {"how": ["reached" for _ in asked.get("targets", ())]},
        "reserve_port": {"port": 29617},
        "all_reduce": {"wrong": 0, "latency": 1e-4, "bandwidth": 2e9},
    }
    return answers[asked["do"]]


class Hosts:
    """Hosts on one network, each with or without a GPU; the answer of one may be replaced."""

    def __init__(self, gpus: int = 0, names: str = "abc", **answers: Answer) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.parts: dict[str, Part] = {}
        for number, name in enumerate(names, 1):
            greeting = {**hello(eth0=f"10.0.0.{number}/24"), "gpus": gpus}
            self.parts[name] = Part(name, greeting, answers.get(name, well), self.heard)

    def meet(self, addresses: Mapping[str, str] | None = None, **openers: Callable[[], Channel]) -> dict[str, Any]:
        return meet({**{name: partial(self._open, name) for name in self.parts}, **openers}, addresses or {})

    def _open(self, name: str) -> Channel:
        return self.parts[name]

    def asked(self, what: str) -> list[tuple[str, Any]]:
        return [(host, asked) for host, asked in self.heard if asked["do"] == what]


def test_each_host_connects_to_all_others_and_has_trials_with_two() -> None:
    hosts = Hosts()
    record = hosts.meet()
    assert (record["id"], record["status"], record["host"]) == ("fleet.network", "ok", None)
    assert "3 hosts meet on eth0" in record["reason"]
    called = {(host, target["address"]) for host, asked in hosts.asked("reach") for target in asked["targets"]}
    assert called == {
        ("a", "10.0.0.2"), ("a", "10.0.0.3"), ("b", "10.0.0.1"), ("b", "10.0.0.3"), ("c", "10.0.0.1"), ("c", "10.0.0.2"),
    }  # fmt: skip
    meets = [(host, asked["rank"], asked["address"], asked["port"]) for host, asked in hosts.asked("all_reduce")]
    assert sorted(meets) == [
        ("a", 0, "10.0.0.1", 29617),
        ("a", 0, "10.0.0.1", 29617),
        ("b", 0, "10.0.0.2", 29617),
        ("b", 1, "10.0.0.1", 29617),
        ("c", 1, "10.0.0.1", 29617),
        ("c", 1, "10.0.0.2", 29617),
    ]
    assert {asked["backend"] for _, asked in hosts.asked("all_reduce")} == {"gloo"}
    assert [host for host, _ in hosts.asked("quit")] == ["a", "b", "c"]
    assert all(part.is_closed for part in hosts.parts.values())


def test_nccl_is_tried_if_every_host_has_a_gpu() -> None:
    hosts = Hosts(gpus=8)
    assert "NCCL over all GPUs 100 µs" in hosts.meet()["reason"]
    assert [asked["backend"] for _, asked in hosts.asked("all_reduce")] == ["gloo"] * 4 + ["nccl"] * 6


def test_every_gpu_of_both_hosts_has_a_process_and_ranks_follow_one_another() -> None:
    hosts = Hosts(gpus=8, names="ab")
    hosts.parts["b"].lines = [json.dumps({**hello(eth0="10.0.0.2/24"), "gpus": 4})]
    hosts.meet()
    asked = [
        (host, one["backend"], one["rank"], one["processes"], one["world"]) for host, one in hosts.asked("all_reduce")
    ]
    assert asked == [("a", "gloo", 0, 1, 2), ("b", "gloo", 1, 1, 2), ("a", "nccl", 0, 8, 12), ("b", "nccl", 8, 4, 12)]


@pytest.mark.parametrize(("gpus", "backends"), [(0, ["gloo"] * 12), (8, ["gloo"] * 8 + ["nccl"] * 12)])
def test_all_pairs_of_four_hosts_have_trials_and_one_slow_host_is_named(gpus: int, backends: list[str]) -> None:
    def slow(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"wrong": 0, "latency": 1e-4, "bandwidth": 2e8} if asked["do"] == "all_reduce" else well(asked)

    hosts = Hosts(gpus, "abcd", c=slow)
    record = hosts.meet()
    backend = backends[-1]
    assert record["status"] == "warn"
    named = (
        f"{backend} on c reaches at most 0.20 GB/s on eth0 in each of its 3 pairs, the fastest pair reaches 2.00 GB/s"
    )
    assert named in record["reason"]
    assert [asked["backend"] for _, asked in hosts.asked("all_reduce")] == backends
    of_it = [one for one in record["evidence"]["meetings"] if one["backend"] == backend]
    assert len({frozenset(one["hosts"]) for one in of_it}) == len(of_it) == 6


def test_there_is_no_trial_if_a_host_is_not_reached() -> None:
    def deaf(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"how": ["no answer within 3 s", "reached"]} if asked["do"] == "reach" else well(asked)

    hosts = Hosts(c=deaf)
    record = hosts.meet()
    assert record["status"] == "warn"
    assert "c to a's eth0: no answer within 3 s" in record["reason"]
    assert hosts.asked("all_reduce") == []


def test_hosts_of_a_span_have_trials_at_its_addresses_alone() -> None:
    """Though others would do, and whatever their interfaces and networks are called."""
    hosts = Hosts(names="ab")
    hosts.parts["a"].lines = [json.dumps(hello(eth0="10.0.0.1/24", ib0="10.8.0.1/24"))]
    hosts.parts["b"].lines = [json.dumps(hello(eth0="10.0.0.2/24", ib1="10.9.0.2/24"))]
    record = hosts.meet({"a": "10.8.0.1", "b": "10.9.0.2"})
    assert {asked["interface"] for _, asked in hosts.asked("all_reduce")} == {"ib0", "ib1"}
    assert record["evidence"]["settings"]["b"]["GLOO_SOCKET_IFNAME"] == "ib1"


def test_an_address_that_no_interface_shows_leaves_all_of_them() -> None:
    assert "3 hosts meet on eth0" in Hosts().meet(dict.fromkeys("abc", "fd00::1"))["reason"]


def test_one_address_that_no_interface_shows_leaves_those_of_all_hosts() -> None:
    hosts = Hosts(names="ab")
    hosts.parts["a"].lines = [json.dumps(hello(eth0="10.0.0.1/24", ib0="10.8.0.1/24"))]
    assert "2 hosts meet on eth0" in hosts.meet({"a": "10.8.0.1", "b": "203.0.113.7"})["reason"]


def test_an_unreachable_host_is_named_and_the_others_are_tried() -> None:
    def cut() -> Channel:
        raise TransportError("host b (10.0.0.2) cannot be reached")

    hosts = Hosts()
    record = hosts.meet(b=cut)
    assert record["status"] == "error"
    assert record["reason"] == "cannot tell: b did not come: host b (10.0.0.2) cannot be reached"
    assert {host for host, _ in hosts.asked("all_reduce")} == {"a", "c"}
    assert record["evidence"]["settings"]["a"]["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize("stage", ["reach", "reserve_port", "all_reduce"])
def test_a_host_whose_process_ends_early_is_named_with_its_last_output(stage: str) -> None:
    hosts = Hosts(b=lambda asked: None if asked["do"] == stage else well(asked))
    record = hosts.meet()
    assert (record["status"], record["reason"]) == ("error", "cannot tell: b did not come: ImportError: no torch")
    assert all(part.is_closed for part in hosts.parts.values())


def test_a_host_that_cannot_listen_reports_it() -> None:
    hosts = Hosts()
    hosts.parts["c"].lines = [json.dumps({**hello(eth0="10.0.0.3/24"), "problem": "it cannot listen on any port"})]
    assert hosts.meet()["reason"] == "cannot tell: c did not come: it cannot listen on any port"


def test_a_missing_port_is_reported_as_the_reason() -> None:
    hosts = Hosts(
        a=lambda asked: {"problem": "no port to meet at is free"} if asked["do"] == "reserve_port" else well(asked)
    )
    record = hosts.meet()
    assert record["status"] == "warn"
    assert "a: no port to meet at is free" in record["reason"]
