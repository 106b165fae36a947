"""Hosts that are led to meet: who is asked what, and what becomes of one that does not answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from provision.core.errors import TransportError
from provision.fleet.multihost import meet
from provision.fleet.ssh.channel import Channel
from tests.multihost.test_interface_map import hello

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any] | None]


class Part:
    """A host's part: says hello, and answers what it is asked; null is no answer at all."""

    def __init__(self, host: str, said: Mapping[str, Any] | None, answer: Answer, heard: list[tuple[str, Any]]) -> None:
        self.host, self.heard, self.answer = host, heard, answer
        self.lines = [json.dumps(said)] if said else []
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
    """Three hosts on one network, each with a GPU or without; what one answers may be replaced."""

    def __init__(self, gpus: int = 0, **answers: Answer) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.parts = {
            name: Part(
                name,
                {**hello(eth0=f"10.0.0.{number}/24"), "gpus": gpus},
                answers.get(name, well),
                self.heard,
            )
            for number, name in enumerate(("a", "b", "c"), 1)
        }

    def meet(self, **openers: Callable[[], Channel]) -> dict[str, Any]:
        return meet({**{name: partial(self._open, name) for name in self.parts}, **openers})

    def _open(self, name: str) -> Channel:
        return self.parts[name]

    def asked(self, what: str) -> list[tuple[str, Any]]:
        return [(host, asked) for host, asked in self.heard if asked["do"] == what]


def test_each_calls_on_all_others_and_meets_two_of_them() -> None:
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
        ("a", 1, "10.0.0.3", 29617),
        ("b", 0, "10.0.0.2", 29617),
        ("b", 1, "10.0.0.1", 29617),
        ("c", 0, "10.0.0.3", 29617),
        ("c", 1, "10.0.0.2", 29617),
    ]
    assert {asked["backend"] for _, asked in hosts.asked("all_reduce")} == {"gloo"}
    assert [host for host, _ in hosts.asked("quit")] == ["a", "b", "c"]
    assert all(part.is_closed for part in hosts.parts.values())


def test_nccl_is_tried_where_every_host_has_a_gpu() -> None:
    hosts = Hosts(gpus=8)
    assert "NCCL 100 µs" in hosts.meet()["reason"]
    assert [asked["backend"] for _, asked in hosts.asked("all_reduce")] == ["gloo"] * 6 + ["nccl"] * 6


def test_where_one_is_not_reached_nobody_meets() -> None:
    def deaf(asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return {"how": ["no answer within 3 s", "reached"]} if asked["do"] == "reach" else well(asked)

    hosts = Hosts(c=deaf)
    record = hosts.meet()
    assert record["status"] == "warn"
    assert "c to a's eth0: no answer within 3 s" in record["reason"]
    assert hosts.asked("all_reduce") == []


def test_one_that_cannot_be_opened_is_named_and_the_others_are_tried() -> None:
    def cut() -> Channel:
        raise TransportError("host b (10.0.0.2) cannot be reached")

    hosts = Hosts()
    record = hosts.meet(b=cut)
    assert record["status"] == "error"
    assert record["reason"] == "cannot tell: b did not come: host b (10.0.0.2) cannot be reached"
    assert {host for host, _ in hosts.asked("all_reduce")} == {"a", "c"}
    assert record["evidence"]["settings"]["a"]["GLOO_SOCKET_IFNAME"] == "eth0"


@pytest.mark.parametrize("stage", ["reach", "reserve_port", "all_reduce"])
def test_one_that_dies_on_the_way_is_named_with_its_last_words(stage: str) -> None:
    hosts = Hosts(b=lambda asked: None if asked["do"] == stage else well(asked))
    record = hosts.meet()
    assert (record["status"], record["reason"]) == ("error", "cannot tell: b did not come: ImportError: no torch")
    assert all(part.is_closed for part in hosts.parts.values())


def test_one_that_cannot_listen_says_so_itself() -> None:
    hosts = Hosts()
    hosts.parts["c"].lines = [json.dumps({**hello(eth0="10.0.0.3/24"), "problem": "it cannot listen on any port"})]
    assert hosts.meet()["reason"] == "cannot tell: c did not come: it cannot listen on any port"


def test_no_port_to_meet_at_is_told_as_the_reason() -> None:
    hosts = Hosts(
        a=lambda asked: {"problem": "no port to meet at is free"} if asked["do"] == "reserve_port" else well(asked)
    )
    record = hosts.meet()
    assert record["status"] == "warn"
    assert "a: no port to meet at is free" in record["reason"]
