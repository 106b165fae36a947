"""The health agents of hosts behind a gateway: what a real HAProxy makes of their word."""

import http.client
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.features.gateway.running import KEY, Site, running
from tests.waiting import wait_until

pytestmark = pytest.mark.long(seconds=28)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway before two hosts with health agents."""
    with running(tmp_path, {"h1": "m", "h2": "m"}, agents=True, probe_patience_s=1) as made:
        yield made


def word(site: Site, name: str, *, sent: bytes = b"") -> str:
    """Return what the agent of a host says."""
    backend = site.stubs[name].backend
    assert backend.health_port is not None
    with socket.create_connection((backend.address, backend.health_port)) as connection:
        connection.sendall(sent)
        return connection.recv(200).decode()


def test_a_frozen_engine_leaves_the_traffic_and_returns(site: Site) -> None:
    stub = site.stubs["h1"]
    stub.signal_engine(signal.SIGSTOP)
    site.wait("h1", "DOWN")
    assert "frozen" in site.row("model-0", "h1")["agent_desc"] or "frozen" in word(site, "h1")
    assert {site.chat().host for _ in range(10)} == {"h2"}
    stub.signal_engine(signal.SIGCONT)
    site.wait("h1", "UP")
    wait_until(lambda: site.chat().host == "h1", "the host that came back gets no request")


def test_streams_of_an_engine_that_freezes_are_ended(site: Site) -> None:
    site.traffic(drain=["h2"])
    stub, stream = site.stubs["h1"], site.begin_stream("h1")
    stub.signal_engine(signal.SIGSTOP)
    stub.step()
    site.wait("h1", "DOWN")
    assert "end" not in list(read_rest(stream))
    wait_until(lambda: site.host("h1").broken == 1, "the stream that HAProxy ended is not counted")


def read_rest(stream: Iterator[str]) -> Iterator[str]:
    """Yield the tokens of a stream until it breaks."""
    try:
        yield from stream
    except (http.client.HTTPException, OSError):
        return


def test_an_engine_that_works_long_on_one_token_stays_in_the_traffic(site: Site) -> None:
    site.traffic(drain=["h2"])
    site.stubs["h1"].mode("work")
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(site.chat().status))
    client.start()
    seen = set()
    while client.is_alive():
        seen.add(site.state("h1"))
        client.join(0.2)
    assert (statuses, seen) == ([200], {"UP"})


def test_errors_of_clients_mark_no_host_down(site: Site) -> None:
    for stub in site.stubs.values():
        stub.mode("refuse")
    before = len(site.stubs["h1"].seen(probes=True))
    assert {site.chat().status for _ in range(20)} == {400}
    wait_until(lambda: len(site.stubs["h1"].seen(probes=True)) > before + 3, "it is not asked for a token")
    assert (site.state("h1"), site.state("h2")) == ("UP", "UP")


@pytest.mark.parametrize("knows_the_model", [True, False])
def test_errors_of_the_engine_take_it_out_also_from_its_first_request_on(site: Site, *, knows_the_model: bool) -> None:
    site.stubs["h1"].mode("fail")
    if not knows_the_model:
        site.restart_agent("h1")
    site.wait("h1", "DOWN")
    site.stubs["h1"].mode("ok")
    site.wait("h1", "UP")


def test_the_word_of_an_agent_does_not_undo_a_drain(site: Site) -> None:
    site.traffic(drain=["h1"])
    assert word(site, "h1").startswith("up ")
    stub = site.stubs["h1"]
    stub.signal_engine(signal.SIGSTOP)
    site.wait("h1", "DRAIN")
    wait_until(lambda: word(site, "h1").startswith("down #"), "it is never seen")
    stub.signal_engine(signal.SIGCONT)
    wait_until(lambda: word(site, "h1").startswith("up "), "it is never up again")
    site.restart_agent("h1")
    wait_until(lambda: site.host("h1").healthy, "HAProxy never hears of it")
    assert {one.host: one.state for one in site.traffic().hosts} == {"h1": "drained", "h2": "up"}
    assert {site.chat().host for _ in range(10)} == {"h2"}
    site.traffic(ready=["h1"])
    wait_until(lambda: site.chat().host == "h1", "it gets no request after its return")


def test_a_host_whose_agent_ended_stays_in_the_traffic(site: Site) -> None:
    agent = site.stubs["h1"].agent
    assert agent is not None
    agent.kill()
    agent.wait()
    wait_until(lambda: site.row("model-0", "h1")["agent_status"] not in {"L7OK", "INI"}, "it is never missed")
    assert site.state("h1") == "UP"
    assert {site.chat().host for _ in range(10)} == {"h1", "h2"}


def test_an_agent_answers_whatever_is_sent_and_reads_none_of_it(site: Site) -> None:
    assert word(site, "h1", sent=f"GET / HTTP/1.1\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()).startswith("up ")


def test_a_host_that_ends_leaves_the_traffic(site: Site) -> None:
    site.stubs["h1"].process.kill()
    site.stubs["h1"].process.wait()
    site.wait("h1", "DOWN")
    assert {site.chat().host for _ in range(10)} == {"h2"}
    site.stubs["h1"].restart()
    site.wait("h1", "UP")
