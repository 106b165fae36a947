"""Tokens of clients and their budgets, in a real HAProxy; stubs say what hosts have counted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from provision.core.errors import InventoryError
from provision.features.gateway.backends import backends_of
from provision.features.gateway.traffic import Tokens, Traffic, Usage, read_usage, render_usage, usage_document
from provision.run.served import Served
from tests.features.gateway.running import Answer, Site, running
from tests.features.gateway.test_backends import host
from tests.waiting import wait_until

DAY = 10**6
UNUSED = Tokens(0, 0, None)


def used(site: Site, client: str, window: str) -> int:
    """Return the tokens of a client that the gateway knows."""
    tokens = site.traffic().usage.clients[client][window]
    return tokens.prompt + tokens.generated


def refused(site: Site) -> Answer:
    """Return the first answer that is none of a host."""
    found: list[Answer] = []

    def is_refused() -> bool:
        found.append(site.chat())
        return found[-1].status == 429

    wait_until(is_refused, "the budget is never used up")
    return found[-1]


@pytest.mark.slow
def test_the_tokens_of_all_hosts_use_up_a_clients_budget_and_no_other_clients(tmp_path: Path) -> None:
    with running(
        tmp_path, {"h1": "m", "h2": "m", "n1": "n"}, gateway_tokens_per_minute={"one": 100}, gateway_tokens_per_day=DAY
    ) as site:
        site.stubs["h1"].used("minute one 9 40\nday one 100 20\n")
        site.stubs["n1"].used("minute one 10 40\nday one 200 20\n")
        wait_until(lambda: used(site, "one", "day") == 340, "the counts never arrive")
        assert site.chat().status == 200, "one token is left"
        site.stubs["n1"].used("minute one 10 61\nday one 200 41\n")
        answer = refused(site)
        assert answer.document["error"] == {
            "message": "the budget of tokens is used up: 0 of 100 tokens left in this minute, 999639 of 1000000 tokens left in this day",
            "type": "rate_limit_error",
            "code": None,
            "param": None,
        }
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert site.ask("POST", "/v1/chat/completions", {"model": "m"}, key="sk-client-two").status == 200
        assert site.traffic().usage.clients["two"] == {"minute": UNUSED, "day": Tokens(0, 0, DAY)}
        site.stubs["h1"].used("minute one 0 0\nday one 100 20\n")
        site.stubs["n1"].used("minute one 0 0\nday one 200 41\n")
        wait_until(lambda: site.chat().status == 200, "the next minute brings nothing")


@pytest.mark.slow
def test_a_stream_that_passes_the_budget_ends_whole_and_the_next_request_waits_for_the_next_day(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m"}, gateway_tokens_per_day=10) as site:
        stub, stream = site.stubs["h1"], site.begin_stream("h1")
        stub.used("day one 5 400\n")
        answer = refused(site)
        assert "0 of 10 tokens left in this day" in answer.document["error"]["message"]
        assert "minute" not in answer.document["error"]["message"]
        assert 1 <= int(answer.headers["retry-after"]) <= 86400
        stub.step(4)
        assert list(stream)[-1] == "end"


@pytest.mark.slow
def test_the_counts_outlive_a_reload_and_a_host_that_is_down(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m", "h2": "m"}, gateway_tokens_per_day=100) as site:
        site.stubs["h1"].used("day one 60 60\n")
        refused(site)
        site.reload(replace(site.gateway, clients={**site.gateway.clients, "three": "sk-three"}))
        refused(site)
        site.stubs["h1"].process.kill()
        site.wait("h1", "DOWN")
        assert refused(site).status == 429
        assert used(site, "one", "day") == 120


@pytest.mark.slow
def test_clients_are_counted_without_a_budget_and_cannot_name_another(tmp_path: Path) -> None:
    with running(tmp_path, {"h1": "m"}) as site:
        body = {"model": "m"}
        assert site.ask("POST", "/v1/chat/completions", body, X_Firstlight_Client="two").status == 200
        [seen] = site.stubs["h1"].seen()
        assert seen["headers"]["x-firstlight-client"] == "one"
        wait_until(lambda: site.traffic().usage.uncounted == (), "the host is never asked")
        assert site.traffic().usage.clients["one"] == {"minute": UNUSED, "day": UNUSED}


NAMES = {"h1": "h/1", "h2": "h2", "h3": "h3"}
TOLD = "client app minute 12 30 1000\nclient app day 1200 3000 0\nhost h1 1\nhost h2 -1\nhost h3 61\n"


def test_usage_is_shown_with_what_is_left_and_the_hosts_that_are_missing() -> None:
    told = {"gate": TOLD, "old": "Unknown command: 'show tokens'\n"}
    traffics = [Traffic(gateway, (), read_usage(text, NAMES)) for gateway, text in told.items()]
    assert render_usage(traffics).splitlines() == [
        "gate:",
        "  client  in this  prompt  generated  limit  left",
        "  app     minute       12         30  1,000   958",
        "  app     day       1,200      3,000      -     -",
        "  not counted: h2, h3, down, without an API key or started by an earlier version; start anew: ./firstlight serve",
        "old: knows no tokens of clients: it was set up by an earlier version, or its HAProxy is built without Lua; set it up again: ./firstlight gateway",
    ]
    [gate, old] = json.loads(json.dumps(usage_document(traffics)))["gateways"]
    minute = {"prompt": 12, "generated": 30, "limit": 1000, "left": 958}
    day = {"prompt": 1200, "generated": 3000, "limit": None, "left": None}
    assert gate == {
        "gateway": "gate",
        "clients": [{"client": "app", "minute": minute, "day": day}],
        "uncounted": ["h2", "h3"],
    }
    assert old["clients"] == []


def test_what_is_left_is_never_below_nothing() -> None:
    assert Tokens(100, 1, 100).left == 0
    assert Usage().clients == {}


def test_a_budget_is_refused_where_a_host_without_a_key_counts_no_tokens() -> None:
    served = {"h1": Served("m", "0.0.0.0", 8000, None)}
    assert backends_of(host("gate"), [host("h1")], served)
    with pytest.raises(InventoryError, match="hosts without an API key do not count: h1"):
        backends_of(host("gate", gateway_tokens_per_day={"default": 5}), [host("h1")], served)
