"""The choice of hosts by the beginnings of requests at a real HAProxy."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.core.tables import rows_of
from provision.features.gateway import haproxy
from provision.features.gateway.haproxy import BOUND_PERCENT, COMPARED, Text, ring_ids
from tests.features.gateway.running import Site, running
from tests.waiting import wait_until

HOSTS = ("h1", "h2", "h3")
BEGINNINGS = 24


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A gateway that chooses by prefixes, before three hosts; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("prefixes")
    with running(folder, dict.fromkeys(HOSTS, "m"), gateway_balance="prefixes") as made:
        yield made


def system(text: str, *questions: str) -> dict[str, Any]:
    messages = [{"role": "user" if at % 2 == 0 else "assistant", "content": one} for at, one in enumerate(questions)]
    return {"messages": [{"role": "system", "content": text}, *messages]}


def host_of(site: Site, path: str, body: dict[str, Any]) -> str:
    """Return the host that gets a request when none works: HAProxy counts a request for a moment after its answer."""
    wait_until(lambda: not any(int(site.row("model-0", name)["scur"]) for name in HOSTS), "a request never ends")
    answer = site.ask("POST", path, {"model": "m", **body})
    assert answer.status == 200
    return answer.host


def chosen(site: Site) -> dict[str, str]:
    """Return the host of each of many conversations."""
    return {
        text: host_of(site, "/v1/chat/completions", system("You help.", text))
        for text in (f"question {number}" for number in range(BEGINNINGS))
    }


def parts(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


LONG = "x" * COMPARED
EQUAL: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "a conversation goes on": ("chat/completions", [system("{}", "a"), system("{}", "a", "b", "c")]),
    "one without instructions": (
        "chat/completions",
        [
            {"messages": [{"role": "user", "content": "{}"}]},
            {"messages": [{"role": "user", "content": "{}"}, {"role": "assistant", "content": "b"}]},
        ],
    ),
    "parts as text": (
        "chat/completions",
        [{"messages": [{"role": "user", "content": one}]} for one in ("{}", parts("{}"))],
    ),
    "a document and two questions": (
        "chat/completions",
        [{"messages": [{"role": "user", "content": "{}" + LONG + end}]} for end in ("one?", "two?")],
    ),
    "a completion": ("completions", [{"prompt": "{}" + LONG + "one"}, {"prompt": ["{}" + LONG + "two"]}]),
    "anthropic": (
        "messages",
        [{"system": one, "messages": [{"role": "user", "content": "a"}]} for one in ("{}", parts("{}"))],
    ),
    "a response": (
        "responses",
        [{"instructions": "{}", "input": "a"}, {"instructions": "{}", "input": [{"role": "user", "content": "a"}]}],
    ),
}


def filled(body: dict[str, Any], text: str) -> Any:
    """Return a body with its placeholder replaced."""
    return json.loads(json.dumps(body).replace("{}", text))


def test_paths_into_a_list_are_tried_before_the_list_itself_without_a_new_haproxy() -> None:
    """HAProxy 3.0 finds the text of a whole list, which has no equal in a request whose text is no list."""
    for text in rows_of(Path(haproxy.__file__).with_name("beginnings.toml"), "text", Text):
        assert list(text.paths) == sorted(text.paths, key=len, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("case", EQUAL)
def test_requests_with_one_beginning_reach_one_host(site: Site, case: str) -> None:
    path, bodies = EQUAL[case]
    used = set()
    for number in range(8):
        found = {host_of(site, f"/v1/{path}", filled(body, f"text {number} ")) for body in bodies}
        assert len(found) == 1
        used |= found
    assert len(used) > 1, "other beginnings reach other hosts"


@pytest.mark.slow
def test_a_drained_host_loses_only_its_own_and_gets_them_back(site: Site) -> None:
    before = chosen(site)
    assert set(before.values()) == set(HOSTS)
    site.traffic(drain=["h1"])
    during = chosen(site)
    assert {text: host for text, host in during.items() if before[text] != "h1"} == {
        text: host for text, host in before.items() if host != "h1"
    }
    assert {during[text] for text, host in before.items() if host == "h1"} <= {"h2", "h3"}
    site.reload(replace(site.gateway, clients={**site.gateway.clients, "more": "sk-more"}))
    assert chosen(site) == during, "a reload drains no other host and moves nothing"
    site.traffic(ready=["h1"])
    wait_until(lambda: chosen(site) == before, "what it had does not return")


@pytest.mark.slow
def test_a_host_that_refuses_is_left_for_another(site: Site) -> None:
    with site.stubs["h2"].in_mode("busy"):
        assert set(chosen(site).values()) == {"h1", "h3"}


@pytest.mark.slow
def test_a_canary_gets_its_share_of_every_beginning(site: Site) -> None:
    site.traffic(canary={"h3": 5000})
    try:
        found = Counter(host_of(site, "/v1/chat/completions", system("You help.", "one")) for _ in range(200))
    finally:
        site.traffic(canary={})
    assert abs(found["h3"] - 100) <= 6 * 50**0.5
    assert len(found) == 2, "the others stay together"
    wait_until(lambda: site.state("h3") == "UP", "it never returns")


@pytest.mark.slow
def test_a_host_gets_no_more_than_its_bound_of_one_beginning(site: Site) -> None:
    waiting = 12
    for stub in site.stubs.values():
        stub.mode("stepwise")
    body = {**system("You help.", "one"), "stream": True, "model": "m"}
    before = {name: len(stub.seen()) for name, stub in site.stubs.items()}
    clients = [threading.Thread(target=site.ask, args=("POST", "/v1/chat/completions", body)) for _ in range(waiting)]
    try:
        for client in clients:
            client.start()
        found: dict[str, int] = {}

        def all_arrived() -> bool:
            found.update({name: len(stub.seen()) - before[name] for name, stub in site.stubs.items()})
            return sum(found.values()) == waiting

        wait_until(all_arrived, "a request is missing")
    finally:
        for stub in site.stubs.values():
            stub.mode("ok")
            stub.step(waiting * 8)
        for client in clients:
            client.join()
    assert max(found.values()) == BOUND_PERCENT * waiting // (100 * len(HOSTS))


@pytest.mark.slow
def test_requests_without_a_text_spread(site: Site) -> None:
    assert len({host_of(site, "/v1/embeddings", {"input": "a"}) for _ in range(40)}) == len(HOSTS)


def test_another_host_changes_no_number_of_the_others() -> None:
    few = ring_ids(["b", "d"])
    more = ring_ids(["a", "b", "c", "d"])
    assert {name: more[name] for name in few} == few
    many = ring_ids(f"gpu-{number}" for number in range(2000))
    assert len(set(many.values())) == len(many)
    assert min(many.values()) > 0
    assert max(many.values()) < 2**20
