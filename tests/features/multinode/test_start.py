"""What happens before the hosts of a span start: rules for their ports, then an exchange through them."""

from typing import Any

import pytest

from provision.core.models.facts import Port
from provision.core.models.records import PhaseResult
from provision.features.firewall.rules import START
from provision.features.multinode import step as span_start
from provision.run.context import RunContext
from provision.run.results import VerifiedHosts
from tests.features.firewall.fake_firewalls import Fleet, fleet

__all__ = ["fleet"]

NAMES = ("gpu-1", "gpu-2")


class Trial:
    """The exchange of numbers: how it ends, and which rules it passes through."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ends: dict[str, Any] = {"status": "ok", "reason": "exact", "remedy": None, "evidence": {"settings": {}}}
        self.rules: list[str] = []

    def __call__(self, *_: object) -> dict[str, Any]:
        self.rules = [self.fleet.hosts[name].rules(START) for name in NAMES]
        return self.ends


@pytest.fixture
def trial(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Trial:
    one = Trial(fleet)
    monkeypatch.setattr(span_start, "try_together", one)
    for name, source in zip(NAMES, ("10.1.0.1", "10.1.0.2"), strict=True):
        fleet.hosts[name].sources = source
    return one


def prepare(
    fleet: Fleet, *, root: bool = True, up_to_date: frozenset[str] = frozenset(), checked: bool = True, **given: Any
) -> RunContext:
    """Take the step in a run over a span whose hosts were verified."""
    context = fleet.open_run(span=True, gateway=False, **given)
    context.outcomes.results.clear()
    for name in NAMES:
        context.record(PhaseResult(host=name, phase="verify", status="ok"))
    documents = dict.fromkeys(NAMES, {"torch": "2.13.0"} if checked else {})
    paths = fleet.paths(context, root=root)
    verified = VerifiedHosts(fleet.facts(context), paths, documents=documents, up_to_date=up_to_date)
    assert span_start.prepare(context, verified) is verified
    return context


def test_the_ports_are_closed_before_the_exchange_and_the_start(fleet: Fleet, trial: Trial) -> None:
    context = prepare(fleet, firewall="set", limited=True)
    assert fleet.played == [("load", [*NAMES])]
    assert "tcp dport 29501 tcp flags & (syn | ack) == syn ip saddr { 10.1.0.2 } accept" in trial.rules[0]
    assert "ip daddr 10.1.0.2 tcp dport 32768-60999" in trial.rules[1]
    result = context.outcomes.results["gpu-1"]["verify"]
    assert (result.status, result.changed) == ("ok", True)
    assert result.text == "only the hosts of its model reach port 29501, 29502, 32768-60999 at its start"
    assert fleet.rules("gpu-1") == "", "those of the host come when it serves"
    prepare(fleet, firewall="set", limited=True)
    assert fleet.played == [], "they are loaded"


def test_the_rules_of_the_host_take_the_place_of_those_of_its_start(fleet: Fleet, trial: Trial) -> None:
    prepare(fleet, firewall="set")
    context = fleet.run(firewall="set", span=True, gateway=False)
    assert fleet.played == [("load", [*NAMES]), ("remove", [*NAMES])]
    assert "29501" in fleet.rules("gpu-1")
    assert [fleet.hosts[name].rules(START) for name in NAMES] == ["", ""]
    assert "only the hosts of its model reach port 29501" in str(context.outcomes.results["gpu-1"]["serve"].text)
    prepare(fleet, firewall="set")
    assert fleet.played == [], "those of the host have these ports"


def test_other_ports_are_closed_beside_those_that_it_may_return_to(fleet: Fleet, trial: Trial) -> None:
    fleet.run(firewall="set", span=True, gateway=False)
    prepare(fleet, firewall="set", span_port=29701)
    assert "29501" in fleet.rules("gpu-1")
    assert "29701" in fleet.hosts["gpu-1"].rules(START)
    fleet.run(firewall="set", span=True, gateway=False, span_port=29701)
    assert "29501" not in fleet.rules("gpu-1")
    assert fleet.hosts["gpu-1"].rules(START) == ""


def test_a_new_member_is_let_in_where_rules_refuse_all_but_the_old_one(fleet: Fleet, trial: Trial) -> None:
    fleet.run(firewall="set", span=True, gateway=False)
    fleet.hosts["gpu-2"].sources = "10.1.0.3"
    prepare(fleet, firewall="set")
    loaded = fleet.rules("gpu-1").splitlines()
    lines = [number for number, line in enumerate(loaded) if "dport 29501" in line]
    assert [loaded[number].split()[-1] for number in lines] == ["accept", "accept", "reset"]
    assert "10.1.0.3" in loaded[lines[0]]
    assert "10.1.0.2" in loaded[lines[1]]
    prepare(fleet, firewall="set")
    assert fleet.played == [], "the rules cover the new member"
    fleet.run(firewall="set", span=True, gateway=False)
    assert fleet.rules("gpu-1").count("dport 29501") == 2, "those of the step take the place of the wider ones"


def test_a_new_member_with_which_no_exchange_passes_is_shut_out_again(fleet: Fleet, trial: Trial) -> None:
    fleet.run(firewall="set", span=True, gateway=False)
    before = fleet.rules("gpu-1")
    fleet.hosts["gpu-2"].sources = "10.1.0.3"
    trial.ends |= {"status": "fail", "reason": "no answer", "remedy": None}
    prepare(fleet, firewall="set")
    assert fleet.rules("gpu-1") == before
    assert fleet.hosts["gpu-1"].rules(START) == ""


def test_rules_through_which_no_exchange_passes_are_removed_and_nothing_is_switched(fleet: Fleet, trial: Trial) -> None:
    trial.ends |= {"status": "fail", "reason": "gpu-2 got 3 where 4 was right", "remedy": "mend the network"}
    context = prepare(fleet, firewall="set")
    assert fleet.played == [("load", [*NAMES]), ("remove", [*NAMES])]
    for name in NAMES:
        result = context.outcomes.results[name]["verify"]
        assert result.status == "failed"
        assert str(result.text).endswith("and do not exchange numbers: gpu-2 got 3 where 4 was right")
        assert str(result.hint).endswith("the rules that this run loaded into their firewalls are removed again")


def test_rules_of_an_earlier_run_stay_where_the_exchange_fails(fleet: Fleet, trial: Trial) -> None:
    fleet.run(firewall="set", span=True, gateway=False)
    trial.ends |= {"status": "fail", "reason": "no answer", "remedy": None}
    context = prepare(fleet, firewall="set")
    assert fleet.played == []
    assert context.outcomes.results["gpu-1"]["verify"].hint == "open all ports between them"


@pytest.mark.parametrize(
    "given",
    [{"firewall": "tell"}, {"firewall": "set", "serve": False}, {"firewall": "set", "up_to_date": frozenset(NAMES)}],
)
def test_nothing_is_loaded_unless_the_span_starts_and_the_setting_says_so(
    fleet: Fleet, trial: Trial, given: dict[str, Any]
) -> None:
    prepare(fleet, **given)
    assert fleet.played == []


def test_a_host_that_does_not_say_where_it_connects_from_is_left_to_the_step_firewall(
    fleet: Fleet, trial: Trial
) -> None:
    fleet.hosts["gpu-2"].sources = ""
    context = prepare(fleet, firewall="set")
    assert fleet.played == [("load", ["gpu-2"])]
    assert context.outcomes.results["gpu-1"]["verify"].status == "ok"


def test_without_root_nothing_starts(fleet: Fleet, trial: Trial) -> None:
    context = prepare(fleet, firewall="set", root=False)
    assert fleet.played == []
    assert "rules of its firewall need root" in str(context.outcomes.results["gpu-1"]["verify"].text)


def test_hosts_that_would_meet_at_the_port_of_ssh_do_not_start(fleet: Fleet, trial: Trial) -> None:
    fleet.hosts["gpu-1"].listening = (Port(address="*", port=29501, process="sshd"),)
    context = prepare(fleet, firewall="set")
    assert "port 29501 of a service is the port of SSH" in str(context.outcomes.results["gpu-1"]["verify"].text)
    assert fleet.hosts["gpu-1"].rules(START) == ""
    assert trial.rules == []


def test_an_environment_that_was_not_checked_is_not_tried(fleet: Fleet, trial: Trial) -> None:
    prepare(fleet, firewall="tell", checked=False)
    assert trial.rules == []
