"""The share of hosts of a rollout at a real HAProxy, by a draw for each request; and how shares follow from figures."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from provision.core.errors import Exit, ServeError
from provision.core.models.inventory import GATEWAY
from provision.core.models.invocation import Invocation
from provision.features.gateway.traffic import Traffic
from provision.features.rollout.driver import set_shares, shares
from provision.pipeline import CommandRequest
from provision.pipeline.runner import RunOutcome, execute
from provision.run.step import Step
from tests.features.gateway.running import Site, running
from tests.features.gateway.test_drain import inventory
from tests.features.gateway.test_traffic import behind
from tests.waiting import wait_until

REQUESTS = 400


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A gateway before three hosts."""
    with running(tmp_path, {"h1": "m", "h2": "m", "h3": "m"}) as made:
        yield made


def drawn(site: Site) -> Counter[str]:
    """Return which host answered how many of many requests; all were answered."""
    return Counter(site.chat().host for _ in range(REQUESTS))


def expect(found: Counter[str], host: str, percent: float) -> None:
    """Check a share; six standard deviations of a binomial count are not left in 10 years of tests."""
    mean = REQUESTS * percent / 100
    assert abs(found[host] - mean) <= 6 * (mean * (1 - percent / 100)) ** 0.5, found


def states(site: Site) -> dict[str, tuple[str, float]]:
    return {one.host: (one.state, one.share) for one in site.traffic().hosts}


@pytest.mark.slow
def test_canaries_get_their_share_whatever_the_number_of_hosts(site: Site) -> None:
    site.traffic(canary={"h1": 1000})
    found = drawn(site)
    expect(found, "h1", 10)
    assert min(found["h2"], found["h3"]) > 0
    assert states(site)["h1"] == ("canary", 10.0)
    assert sum(share for _, share in states(site).values()) == pytest.approx(100, abs=0.1)
    site.traffic(canary={"h1": 2000, "h2": 3000})
    found = drawn(site)
    expect(found, "h1", 20)
    expect(found, "h2", 30)


@pytest.mark.slow
def test_a_share_of_zero_ends_the_traffic_at_once_and_no_share_brings_it_back(site: Site) -> None:
    site.traffic(canary={"h1": 5000})
    site.traffic(canary={"h1": 0})
    assert set(drawn(site)) == {"h2", "h3"}
    site.traffic(canary={})
    assert states(site)["h1"][0] == "up"
    wait_until(lambda: site.chat().host == "h1", "it gets no request")


@pytest.mark.slow
def test_a_reload_and_a_restart_keep_the_share(site: Site) -> None:
    site.traffic(canary={"h1": 0, "h2": 2500})
    site.reload(site.gateway)
    found = drawn(site)
    assert found["h1"] == 0
    expect(found, "h2", 25)
    site.stop()
    site.start()
    for name, state in (("h1", "DRAIN"), ("h2", "DRAIN"), ("h3", "UP")):
        site.wait(name, state)
    found = drawn(site)
    assert found["h1"] == 0
    expect(found, "h2", 25)


@pytest.mark.slow
def test_an_operator_can_drain_a_canary_and_end_it(site: Site) -> None:
    site.traffic(canary={"h1": 5000})
    site.traffic(drain=["h1"])
    assert states(site)["h1"][0] == "drained"
    assert set(drawn(site)) == {"h2", "h3"}
    site.traffic(ready=["h1"], by="run")
    assert states(site)["h1"][0] == "drained", "a run leaves alone what an operator drained"
    site.traffic(ready=["h1"])
    assert states(site)["h1"][0] == "up", "no canary any more"


@pytest.mark.slow
def test_a_run_brings_a_canary_back_as_a_canary(site: Site) -> None:
    site.traffic(canary={"h1": 0})
    site.traffic(drain=["h1"], by="run")
    site.traffic(ready=["h1"], by="run")
    assert states(site)["h1"] == ("canary", 0.0)
    assert set(drawn(site)) == {"h2", "h3"}


@pytest.mark.slow
def test_requests_of_a_dead_canary_go_to_the_others_and_those_of_dead_hosts_to_it(site: Site) -> None:
    site.traffic(canary={"h1": 5000})
    site.stubs["h1"].process.send_signal(signal.SIGKILL)
    site.stubs["h1"].process.wait()
    site.wait("h1", "DOWN")
    assert set(drawn(site)) == {"h2", "h3"}
    site.stubs["h1"].restart()
    site.wait("h1", "DRAIN")
    for name in ("h2", "h3"):
        site.stubs[name].process.kill()
        site.wait(name, "DOWN")
    assert set(drawn(site)) == {"h1"}
    assert site.ask("GET", "/health", key=None).status == 200, "every model has a host"
    site.traffic(canary={"h1": 0})
    assert site.ask("GET", "/health", key=None).status == 503, "its share is none"


@pytest.mark.slow
def test_a_haproxy_that_does_not_answer_gets_no_share(site: Site) -> None:
    site.stop()
    with pytest.raises(ServeError, match="does not answer"):
        site.traffic(canary={"h1": 1000})
    assert "h1" not in (site.folder / "gateway/canary.json").read_text()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a gateway belongs to root")
def test_a_run_gives_hosts_their_share(site: Site, tmp_path: Path) -> None:
    path = inventory(site, tmp_path)
    request = CommandRequest(
        "rollout", path, GATEWAY, {}, tmp_path / "logs", invocation=Invocation(inventory=str(path))
    )

    def give(names: list[str], joining: list[str], percent: float) -> RunOutcome:
        run = partial(set_shares, names=names, joining=joining, percent=percent)
        return execute(request, (Step("canary", run, "serve", "all"),))

    outcome = give(["h1"], ["h2"], 5)
    assert (outcome.exit_code, getattr(outcome.result, "answer", None)) == (Exit.OK, "")
    assert states(site) == {"h1": ("canary", 5.0), "h2": ("canary", 0.0), "h3": ("up", 95.0)}
    assert give(["h1"], ["h2", "h3"], 5).exit_code == Exit.OK
    assert {state for state, _ in states(site).values()} == {"up"}, "nobody would be left for the other requests"
    site.stop()
    outcome = give(["h1"], [], 5)
    assert outcome.exit_code == Exit.RED
    assert "does not answer" in getattr(outcome.result, "answer", "")


def traffic(*hosts: tuple[str, str, str]) -> Traffic:
    return Traffic("gate", tuple(behind(*host) for host in hosts))


def test_hosts_of_a_model_divide_the_percentage() -> None:
    gate = traffic(("a", "m", "canary"), ("b", "m", "up"), ("c", "m", "up"), ("x", "n", "up"), ("y", "n", "up"))
    assert shares([gate], ["a", "x"], [], 10) == {"a": 1000, "x": 1000}
    assert shares([gate], ["a", "b"], [], 25) == {"a": 1250, "b": 1250}
    assert shares([gate], ["a"], ["b"], 1) == {"a": 100, "b": 0}
    assert shares([gate], [], [], 0) == {}
    assert shares([], ["a"], [], 10) == {}


def test_a_canary_gets_no_more_than_an_equal_part_of_the_requests() -> None:
    hosts = [(name, "m", "up") for name in "abcdefghij"]
    gate = traffic(*hosts)
    assert shares([gate], ["a"], [], 5) == {"a": 500}
    assert shares([gate], ["a"], [], 50) == {"a": 1000}
    assert shares([gate], ["a", "b"], ["c"], 50) == {"a": 1111, "b": 1111, "c": 0}, "nine are in traffic"
    assert shares([traffic(*hosts[:4]), gate], ["a"], [], 50) == {"a": 1000}, "the gateway with more hosts"
    assert shares([gate, traffic(*hosts[:4])], ["a"], [], 50) == {"a": 1000}, "in any order"


def test_a_model_without_another_host_in_traffic_has_no_canary() -> None:
    assert shares([traffic(("a", "m", "up"))], ["a"], [], 10) == {}
    assert shares([traffic(("a", "m", "up"), ("b", "m", "drained"))], ["a"], [], 10) == {}
    assert shares([traffic(("a", "m", "up"), ("b", "m", "up"))], ["a"], ["b"], 10) == {}
