"""What gateways say of their hosts, and which hosts may be drained: values in, values out."""

from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from provision.core.errors import Exit, ServeError
from provision.features.gateway import traffic
from provision.features.gateway.traffic import HostTraffic, Traffic

RECORDED = Path(__file__).with_name("answer.json").read_text()
"""HAProxy 2.6.12 after a reload: h1 drained with a stream in the process of before, h2 and x up, h3 ended, h4 drained and ended."""


def behind(name: str, model: str = "m", state: Any = "up", **more: Any) -> HostTraffic:
    known: dict[str, Any] = dict.fromkeys(("sessions", "requests", "errors_5xx", "broken"), 0)
    return HostTraffic(name, model, state, **(known | {"healthy": True, "share": 50.0} | more))


def gateway(name: str, *hosts: HostTraffic) -> Traffic:
    return Traffic(name, hosts)


def test_what_haproxy_counts_is_read() -> None:
    found = traffic.parse("gate", RECORDED)
    assert [astuple(one)[:9] for one in found.hosts] == [
        ("h1", "m", "drained", True, 0.0, 1, 4, 0, 0),
        ("h2", "m", "up", True, 100.0, 0, 7, 1, 1),
        ("h3", "m", "down", False, 0.0, 0, 3, 0, 0),
        ("h4", "m", "drained", False, 0.0, 0, 3, 0, 0),
        ("x", "o", "up", True, 100.0, 0, 1, 0, 0),
    ]
    assert (found.drained(), found.in_traffic("m")) == ({"h1", "h4"}, {"h2"})


def test_the_figures_are_a_table_and_a_document() -> None:
    found = traffic.parse("gate", RECORDED)
    lines = traffic.render([found]).splitlines()
    assert lines[0] == "gate:"
    assert lines[1].split() == ["model", "host", "state", "share", "now", "requests", "5xx", "broken"]
    assert [line.split()[1] for line in lines[2:]] == ["h1", "h2", "h3", "h4", "x"]
    assert "drained, down" in lines[5]
    [entry] = traffic.document([found])["gateways"]
    assert entry["gateway"] == "gate"
    assert entry["hosts"][0]["state"] == "drained"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ('{"error": "HAProxy does not answer at /run/x: No such file"}', "HAProxy does not answer at /run/x"),
        ("Traceback: no such file", "gives no figures: Traceback: no such file"),
        ("", "gives no figures: no output"),
    ],
)
def test_a_gateway_without_figures_is_an_error(answer: str, text: str) -> None:
    with pytest.raises(ServeError, match=text) as refused:
        traffic.parse("gate", answer)
    assert "gate" in refused.value.text
    assert refused.value.hint


def test_hosts_that_cannot_be_drained_are_named() -> None:
    known = [gateway("gate", behind("gpu-1"), behind("gpu-2"))]
    assert traffic.refusal(known, ["gpu-2", "gpu-1"], ["gate", "gpu-1", "gpu-2", "gpu-3"]) is None
    for names, text, hint in (
        (["gpu-1", "gpu1"], "the inventory has no host `gpu1`", "did you mean `gpu-"),
        (["zzz"], "the inventory has no host `zzz`", "behind the gateways are `gpu-1`, `gpu-2`"),
        (["gpu-3"], "host `gpu-3` is behind no gateway", "a host gets behind the gateways when it serves"),
    ):
        refused = traffic.refusal(known, names, ["gpu-1", "gpu-2", "gpu-3"])
        assert refused is not None
        assert (refused.exit_code, refused.text.startswith(text)) == (Exit.USAGE, True)
        assert str(refused.hint).startswith(hint)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        (["a"], None),
        (["a", "b"], "model `m` without `a`, `b`"),
        (["c"], None),
        (["a", "b", "c"], "model `m`"),
        (["d"], "model `n` without `d`"),
    ],
)
def test_a_model_keeps_a_host(names: list[str], left: str | None) -> None:
    first = gateway("g1", behind("a"), behind("b"), behind("c", state="down"), behind("d", "n"))
    error = traffic.left_without_host([first], names)
    assert (error is not None) == (left is not None)
    if error is not None and left is not None:
        assert left in error.text
        assert "--force" in str(error.hint)


def test_each_gateway_keeps_a_host() -> None:
    first, second = gateway("g1", behind("a"), behind("b")), gateway("g2", behind("a"), behind("b", state="down"))
    error = traffic.left_without_host([first, second], ["a"])
    assert error is not None
    assert "gateway `g2`" in error.text


@pytest.mark.parametrize(
    ("restarting", "at_once", "expected"),
    [
        ("ab", 1, [[], ["a"], ["b"]]),
        ("abcd", 2, [["d"], ["a", "b"], ["c"]]),
        ("abc", 9, [[], ["a", "b"], ["c"]]),
        ("e", 1, [[], ["e"]]),
        ("abef", 1, [["f"], ["a", "e"], ["b"]]),
        ("", 1, [[]]),
    ],
)
def test_of_each_model_a_host_stays_while_others_restart(
    restarting: str, at_once: int, expected: list[list[str]]
) -> None:
    gate = gateway("g", behind("a"), behind("b"), behind("c"), behind("d", state="down"), behind("e", "n"))
    assert traffic.waves([*restarting], [gate], at_once) == expected


def test_a_canary_restarts_in_its_turn_and_counts_as_no_host_that_stays() -> None:
    gate = gateway("gate", behind("a", state="canary"), behind("b"), behind("c"))
    assert traffic.waves(["a", "b", "c"], [gate], 3) == [[], ["a"], ["b"], ["c"]]
    assert traffic.waves(["a"], [gate], 1) == [[], ["a"]]
    assert gate.in_traffic("m") == {"b", "c"}
    assert gate.gets_requests("a")
    assert gate.drained() == set()


def test_the_gateway_with_the_fewest_hosts_decides() -> None:
    many = gateway("g1", behind("a"), behind("b"), behind("c"))
    few = gateway("g2", behind("a"), behind("b"), behind("c", state="down"))
    assert traffic.waves(["a", "b", "c"], [many, few], 2)[1:] == [["a"], ["b", "c"]]


def test_requests_of_all_gateways_are_counted() -> None:
    both = [gateway("g1", behind("a", sessions=2)), gateway("g2", behind("a", sessions=1), behind("b", sessions=5))]
    assert traffic.sessions_of(both, ["a", "z"]) == {"a": 3, "z": 0}
