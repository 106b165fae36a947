"""Hosts chosen by vllm-router, with the real HAProxy and the real router, before stub engines."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from provision.features.gateway.haproxy import routed
from provision.features.gateway.router import (
    address_of_router,
    addresses_of_hosts,
    silent_hosts,
    tokens_command,
)
from tests.features.gateway.routers import Routers, routing, wait_for_router
from tests.features.gateway.running import Answer, Site, ask, free_port, running, wait_until
from tests.features.gateway.test_haproxy import installed

__all__ = ["installed"]
pytestmark = pytest.mark.slow

HOSTS = ("h1", "h2", "h3")
CONVERSATIONS = 12
CHAT = "POST /v1/chat/completions"


class Routed:
    """A gateway with its router."""

    def __init__(self, site: Site, routers: Routers) -> None:
        self.site, self.routers = site, routers

    def chat(self, text: str, **more: Any) -> Answer:
        """Send a chat that begins with a text."""
        return self.site.chat(messages=[{"role": "user", "content": text * 20}], **more)

    def hosts(self, prefix: str = "conversation") -> dict[str, str]:
        """Return the host that answers each of many conversations at a time: a new one goes to a host with few requests."""
        texts = [f"{number} of {prefix} " for number in range(CONVERSATIONS)]
        with ThreadPoolExecutor(CONVERSATIONS) as pool:
            return dict(zip(texts, pool.map(lambda text: self.chat(text).host, texts), strict=True))

    def reaches(self, host: str) -> bool:
        """Return whether one of many new conversations reaches a host."""
        return host in self.hosts(os.urandom(4).hex()).values()

    def figure(self, proxy: str, server: str, column: str = "stot") -> int:
        """Return one of HAProxy's figures."""
        return int(self.site.row(proxy, server)[column] or 0)

    def asked(self, text: str) -> list[str]:
        """Return the hosts that got a chat with a text."""
        chats = ((name, one) for name, stub in self.site.stubs.items() for one in stub.seen() if one["route"] == CHAT)
        return [name for name, one in chats if text in str(one["body"])]

    def count(self) -> int:
        """Return how many requests the router got."""
        return self.figure("model-0", ":router")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Routed]:
    """Three hosts behind a router; tests leave it as it was."""
    folder = tmp_path_factory.mktemp("router")
    port = free_port(address_of_router(0))
    with (
        running(folder, dict.fromkeys(HOSTS, "m"), gateway_balance="router", gateway_router_port=port) as site,
        routing(folder, site.gateway) as routers,
    ):
        site.wait(":router", "UP")
        yield Routed(site, routers)


def test_a_conversation_returns_to_the_host_that_has_its_beginning(made: Routed, installed: None) -> None:
    before = made.count()
    first = made.hosts()
    assert len(set(first.values())) > 1, "new ones go to hosts with few requests"
    assert made.hosts() == first
    assert made.count() - before == 2 * CONVERSATIONS


def test_hosts_get_their_own_key_and_nothing_of_the_gateway_s(made: Routed, installed: None) -> None:
    answer = made.chat("a key ", unknown=1)
    seen = next(one for one in reversed(made.site.stubs[answer.host].seen()) if one["route"] == CHAT)
    assert seen["headers"]["authorization"] == f"Bearer key-of-{answer.host}"
    assert "x-firstlight-host" not in seen["headers"]
    assert seen["body"]["unknown"] == 1
    assert {one["route"] for stub in made.site.stubs.values() for one in stub.seen()} == {CHAT, f"{CHAT}/render"}
    assert made.site.ask("POST", "/v1/chat/completions/render", {"model": "m", "messages": []}).status == 404


def test_requests_that_the_router_would_refuse_reach_a_host_without_it(made: Routed, installed: None) -> None:
    before = made.count()
    assert made.chat("tool ", tools=[{"type": "custom", "custom": {"name": "a"}}]).status == 200
    assert made.site.ask("POST", "/v1/embeddings", {"model": "m", "input": "a"}).status == 200
    assert made.count() == before


def test_a_drained_host_gets_nothing_until_it_is_taken_back(made: Routed, installed: None) -> None:
    made.hosts("drain")
    made.site.traffic(drain=["h1"])
    try:
        before = len(made.site.stubs["h1"].seen())
        assert set(made.hosts("drain").values()) <= {"h2", "h3"}, "at once, before the router knows"
        made.site.reload(replace(made.site.gateway, clients={**made.site.gateway.clients, "more": "sk-more"}))
        assert set(made.hosts("drain").values()) <= {"h2", "h3"}, "a reload brings no host back"
        assert len(made.site.stubs["h1"].seen()) == before
    finally:
        made.site.traffic(ready=["h1"])
    wait_until(lambda: made.reaches("h1"), "it gets no new conversation")


def test_a_canary_gets_its_share_and_the_router_gives_it_nothing(made: Routed, installed: None) -> None:
    made.site.traffic(canary={"h3": 5000})
    try:
        before = made.figure("routed-h3", "h3")
        found = [made.chat(f"canary {number} ").host for number in range(100)]
        assert made.figure("routed-h3", "h3") == before
    finally:
        made.site.traffic(canary={})
    assert 20 <= found.count("h3") <= 80
    wait_until(lambda: made.site.state("h3") == "UP", "it never returns")


def test_figures_of_hosts_count_requests_by_both_ways(made: Routed, installed: None) -> None:
    def requests() -> tuple[int, int]:
        counted = sum(one.requests for one in made.site.traffic().hosts)
        return counted, sum(len(stub.seen()) for stub in made.site.stubs.values())

    before = requests()
    made.hosts("figures")
    made.site.ask("POST", "/v1/embeddings", {"model": "m", "input": "a"})
    after = requests()
    assert after[0] - before[0] == after[1] - before[1] > CONVERSATIONS


def test_a_host_that_is_busy_or_dies_loses_no_request(made: Routed, installed: None) -> None:
    made.site.stubs["h2"].mode("busy")
    try:
        assert set(made.hosts("busy").values()) <= {"h1", "h3"}
    finally:
        made.site.stubs["h2"].mode("ok")
    made.site.stubs["h2"].process.kill()
    assert set(made.hosts("dead").values()) <= {"h1", "h3"}
    made.site.wait("h2", "DOWN")
    at = (address_of_router(0), made.site.gateway.settings.gateway_router_port)
    wait_until(lambda: ask(at, "GET", "/health").status == 503, "the router never leaves it out")
    before = made.count()
    assert set(made.hosts("dead").values()) <= {"h1", "h3"}
    assert made.count() - before == CONVERSATIONS, "the router goes on with the others"
    made.site.stubs["h2"].restart()
    made.site.wait("h2", "UP")
    wait_until(lambda: made.reaches("h2"), "it gets no request")


def test_streams_of_a_host_that_stops_end(made: Routed, installed: None) -> None:
    for stub in made.site.stubs.values():
        stub.mode("stepwise")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(made.chat, "a stream ", stream=True)
        wait_until(lambda: len(made.asked("a stream ")) == 1, "the stream never begins")
        [host] = made.asked("a stream ")
        made.site.stubs[host].process.send_signal(signal.SIGSTOP)
        try:
            made.site.wait(host, "DOWN")
            with pytest.raises(http.client.IncompleteRead):
                answer.result()
        finally:
            made.site.stubs[host].process.send_signal(signal.SIGCONT)
            made.site.wait(host, "UP")
            for stub in made.site.stubs.values():
                stub.mode("ok")


def test_nobody_else_on_the_gateway_can_use_the_addresses_of_hosts(made: Routed, installed: None) -> None:
    gateway = made.site.gateway
    address = next(iter(addresses_of_hosts(routed(gateway)).values()))
    at, body = (address, gateway.settings.gateway_router_port), {"model": "m", "messages": []}
    assert ask(at, "GET", "/health").status == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer key-of-h1"}):
        assert ask(at, "POST", "/v1/chat/completions", body, headers).status == 403
    own = {"Authorization": f"Bearer {gateway.router_key}"}
    assert ask(at, "POST", "/v1/chat/completions", body, own).status == 200
    assert ask(at, "POST", "/v1/embeddings", body, own).status == 404
    router = (address_of_router(0), gateway.settings.gateway_router_port)
    assert ask(router, "POST", "/v1/chat/completions", body).status == 403


def test_hosts_that_give_no_tokens_are_found(made: Routed, installed: None) -> None:
    command = tokens_command(sys.executable, str(made.site.folder), made.site.gateway.settings.gateway_router_port)

    def printed() -> str:
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout

    assert sorted(printed().splitlines()) == ["h1 200", "h2 200", "h3 200"]
    assert silent_hosts(printed()) == {}
    made.site.stubs["h2"].mode("no_tokens")
    made.site.traffic(drain=["h3"])
    try:
        assert silent_hosts(printed()) == {"403": ["h2"]}
    finally:
        made.site.stubs["h2"].mode("ok")
        made.site.traffic(ready=["h3"])


def test_without_a_router_the_gateway_chooses_by_itself(made: Routed, installed: None) -> None:
    [router] = made.routers.children()
    os.kill(router, signal.SIGSTOP)
    try:
        made.site.wait(":router", "DOWN")
        assert set(made.hosts("without").values()) <= {*HOSTS}
    finally:
        os.kill(router, signal.SIGCONT)
    made.site.wait(":router", "UP")
    os.kill(router, signal.SIGKILL)
    assert [made.chat(f"after its end {number} ").status for number in range(20)] == [200] * 20
    wait_until(lambda: made.routers.children() not in ({router}, set()), "it is never started again")
    wait_for_router(made.site.gateway)
    made.site.wait(":router", "UP")


def test_a_change_of_hosts_breaks_no_stream(made: Routed, installed: None) -> None:
    gateway, [router] = made.site.gateway, made.routers.children()
    for stub in made.site.stubs.values():
        stub.mode("stepwise")
    answers: list[Answer] = []
    stream = threading.Thread(target=lambda: answers.append(made.chat("a long answer ", stream=True)))
    stream.start()
    wait_until(lambda: len(made.asked("a long answer ")) == 1, "the stream never begins")
    try:
        fewer = replace(gateway, backends=tuple(one for one in gateway.backends if one.name != "h3"))
        made.site.reload(fewer)
        made.routers.write(fewer)
        made.routers.reload()
        wait_until(lambda: len(made.routers.children()) == 2, "no other router is started")
        wait_until(lambda: _listens(fewer), "the other router never listens")
        assert stream.is_alive()

        def ended() -> bool:
            for stub in made.site.stubs.values():
                stub.step()
            return not stream.is_alive()

        wait_until(ended, "the stream never ends")
        assert answers[0].status == 200
        assert answers[0].body.endswith(b"data: [DONE]\n\n")
        wait_until(lambda: router not in made.routers.children(), "the first router never ends")
        for stub in made.site.stubs.values():
            stub.mode("ok")
        wait_for_router(fewer)
        assert set(made.hosts("fewer").values()) <= {"h1", "h2"}
    finally:
        for stub in made.site.stubs.values():
            stub.mode("ok")
        made.site.reload(gateway)
        made.routers.write(gateway)
        made.routers.reload()
    wait_until(lambda: made.reaches("h3"), "it gets no request")


def _listens(gateway: Any) -> bool:
    with socket.create_connection((address_of_router(0), gateway.settings.gateway_router_port), timeout=1):
        return True


def test_two_models_have_a_router_each(tmp_path: Path, installed: None) -> None:
    port = free_port(address_of_router(0))
    with (
        running(
            tmp_path, {"a1": "a", "a2": "a", "b1": "org/b"}, gateway_balance="router", gateway_router_port=port
        ) as site,
        routing(tmp_path, site.gateway),
    ):

        def up() -> bool:
            return all(site.row(f"model-{number}", ":router")["status"] == "UP" for number in (0, 1))

        wait_until(up, "a router is never up")
        assert {site.chat("a", messages=[{"role": "user", "content": f"{n}" * 50}]).host for n in range(8)} <= {
            "a1",
            "a2",
        }
        assert site.chat("org/b").host == "b1"
        assert [int(site.row(f"model-{number}", ":router")["stot"]) for number in (0, 1)] == [8, 1]
