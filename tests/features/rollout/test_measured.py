"""The gate of a rollout, round by round; answers of hosts and the clock are substitutes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provision.core.errors import ServeError, TransportError
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Connection, Host
from provision.core.models.records import PhaseResult
from provision.core.models.settings import Settings
from provision.features.gateway import draining
from provision.features.gateway.traffic import Traffic
from provision.features.rollout import measured as rollout_gate
from provision.features.rollout.gate import Verdict
from provision.features.rollout.model import Decision
from provision.run.context import RunContext, RunOptions
from provision.run.results import ProbedHosts
from tests.features.gateway.test_traffic import behind
from tests.pipeline.test_verify import context_of

Run = Callable[..., tuple[Decision, int]]
Answers = Callable[[str, int], dict[str, Any] | BaseException | None]
"""The answer of a host in a round; None if it is unreachable, an error if it cannot answer."""
Gateway = Callable[[int], int | tuple[int, int] | None]
"""What a gateway has counted of broken streams of the new host after a round, and of answers 5xx; None where it does not answer."""
NAMES = ("new", "old")


def answer(
    sent: int = 64, failed: int = 0, seconds: float = 0.01, finished: float | None = 0.0, between: float = 0.005
) -> dict[str, Any]:
    reasons = ["the server answered 500"] if failed else []
    return {
        "sent": sent,
        "failed": failed,
        "first_token_s": [seconds] * (sent - failed),
        "inter_token_s": [between] * (sent - failed),
        "reasons": reasons,
        "answers": [],
        "left_out": {},
        "counters_before": {},
        "counters": {} if finished is None else {"finished": finished, "failed": 0.0},
    }


def card(device_id: str) -> dict[str, str]:
    return {"address": "0000:01:00.0", "vendor_id": "10de", "device_id": device_id, "class_id": "0302"}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(
        answers: Answers,
        *,
        hold_s: float = 0.0,
        gateway: Gateway | None = None,
        models: Mapping[str, str] = dict.fromkeys(NAMES, "m"),
        has_changed: bool = True,
        alike: Sequence[str] = ("new",),
        facts: Mapping[str, Mapping[str, Any]] = {},
        ends_after: int = 10_000,
    ) -> tuple[Decision, int]:
        """Return the decision, and after how many rounds it was made; a round and a pause take as long as they say."""
        clock = SimpleNamespace(now=0.0, rounds=0)

        def ask_gateways(_context: RunContext, gateways: Sequence[Host]) -> draining.Answers:
            broken = gateway(clock.rounds) if gateway is not None and gateways else None
            if broken is None:
                return draining.Answers(errors={host.name: ServeError("HAProxy does not answer") for host in gateways})
            ended, errors = broken if isinstance(broken, tuple) else (broken, 0)
            hosts = behind("new", errors_5xx=errors, broken=ended), behind("old", broken=999 * clock.rounds)
            return draining.Answers({"gate": Traffic("gate", hosts)})

        def ask(watch: Any, wanted: Mapping[str, int]) -> tuple[dict[str, dict[str, Any]], set[str]]:
            context: RunContext = watch._context
            clock.now, clock.rounds = clock.now + 1.0, clock.rounds + 1
            found = {host.name: answers(host.name, clock.rounds) for host in context.hosts()}
            assert wanted["requests"] > 0
            assert "replay" not in wanted or (has_changed and not watch.compared.answers)
            for name, one in found.items():
                if isinstance(one, BaseException):
                    context.fail(name, "serve", one)
            away = {name for name, one in found.items() if one is None}
            return {name: one for name, one in found.items() if isinstance(one, dict)}, away

        def sleep(seconds: float) -> None:
            clock.now += seconds

        monkeypatch.setattr(rollout_gate._Watch, "_ask", ask)
        monkeypatch.setattr(rollout_gate, "ask", ask_gateways)
        folders = {name: f"/opt/firstlight/models/{model}" for name, model in models.items()}
        states = {name: {"readiness": {"model_folder": folders[name]}} if name in folders else {} for name in NAMES}
        monkeypatch.setattr(rollout_gate, "live_states", lambda *_: states)
        monkeypatch.setattr(rollout_gate, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
        gate = Host(name="gate", groups=("gateway",), connection=Connection(kind="local"), settings=Settings())
        context = context_of(tmp_path, *NAMES)
        context.options = RunOptions(find_gateways=lambda: [gate] if gateway is not None else [])
        described = {name: {"host": name, "probed_at": "", **facts.get(name, {})} for name in NAMES}
        probed = ProbedHosts({name: HostFacts.model_validate(each) for name, each in described.items()})
        found = rollout_gate.gate(
            context,
            probed,
            new=["new"],
            old="old",
            alike=alike,
            step=1,
            hold_s=hold_s,
            has_changed=has_changed,
            is_interrupted=lambda: clock.rounds >= ends_after,
        )
        return found.answer, clock.rounds

    return run


def test_eight_rounds_without_a_failure_pass(run: Run) -> None:
    decision, rounds = run(lambda *_: answer())
    assert (decision.verdict, decision.step, decision.requests, decision.failed, rounds) == ("go on", 1, 512, 0, 8)
    assert decision.first_token_s == {"new": 0.01, "old": 0.01}


def test_traffic_of_clients_shortens_the_wait_to_eight_rounds_that_are_timed(run: Run) -> None:
    decision, rounds = run(lambda _, number: answer(finished=1000.0 * number))
    assert (decision.verdict, decision.requests, rounds) == ("go on", 7064, 8)


def test_failures_stop_at_once_with_the_first_reason(run: Run) -> None:
    decision, rounds = run(lambda name, _: answer(failed=5 if name == "new" else 0))
    assert (decision.verdict, rounds) == ("roll back", 1)
    assert decision.text == "5 of 64 requests failed; a healthy release fails at most 0.1%; the server answered 500"


def test_synthetic_requests_do_not_hide_failures_of_clients(run: Run) -> None:
    def answers(name: str, number: int) -> dict[str, Any]:
        """Each round has 64 synthetic requests, and at the new host 10 of clients, of which one fails."""
        rounds = number if name == "new" else 0
        return answer() | {"counters": {"finished": 64.0 * number + 9.0 * rounds, "failed": 1.0 * rounds}}

    decision, rounds = run(answers)
    assert (decision.verdict, rounds) == ("roll back", 5)
    assert decision.text == "4 of 40 requests of clients failed; a healthy release fails at most 0.1%"


def test_failures_of_the_old_release_stop_nothing(run: Run) -> None:
    decision, _ = run(lambda name, _: answer(failed=5 if name == "old" else 0))
    assert decision.verdict == "go on"


def test_a_release_slower_than_the_old_one_is_stopped(run: Run) -> None:
    decision, rounds = run(lambda name, _: answer(seconds=0.2 if name == "new" else 0.1))
    assert (decision.verdict, decision.first_token_s, rounds) == ("roll back", {"new": 0.2, "old": 0.1}, 20)


def test_a_release_that_was_slower_in_a_third_of_the_rounds_is_not_stopped(run: Run) -> None:
    decision, _ = run(lambda name, number: answer(seconds=0.3 if name == "new" and number % 3 == 0 else 0.1))
    assert decision.verdict == "go on"
    assert "more than 1.25 times as long in 4 of 14 rounds" in decision.text


def slow(name: str, _: int) -> dict[str, Any]:
    return answer(seconds=0.3 if name == "new" else 0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"cpu": {"model": "EPYC 9654"}}, {"cpu": {"model": "EPYC 7543"}}),
        *(
            ({"pci_gpus": [card("2330"), card("2330")]}, {"pci_gpus": cards})
            for cards in ([card("20b2"), card("20b2")], [card("2330")])
        ),
    ],
)
def test_times_are_compared_on_equal_processors_only(run: Run, one: dict[str, Any], other: dict[str, Any]) -> None:
    assert run(slow, facts={"new": one, "old": one})[0].verdict == "roll back"
    assert run(slow, facts={"new": one, "old": other})[0].verdict == "go on"


def test_times_are_compared_with_hosts_that_served_the_same_release_before(run: Run) -> None:
    decision, rounds = run(slow, alike=())
    assert (decision.verdict, rounds) == ("go on", 8)
    assert "; no times were compared: no changed host has" in decision.text
    assert "no times" not in run(lambda *_: answer())[0].text


def test_a_short_outage_of_the_old_host_hides_no_slower_release(run: Run) -> None:
    decision, _ = run(lambda name, number: None if name == "old" and number == 12 else slow(name, number))
    assert decision.verdict == "roll back"


def test_an_old_release_that_stops_answering_does_not_hold_the_rollout(run: Run) -> None:
    broken = answer(failed=64)
    decision, rounds = run(lambda name, number: broken if name == "old" and number > 2 else answer())
    assert (decision.verdict, rounds) == ("go on", 8)
    decision, rounds = run(lambda name, number: None if name == "old" and number > 2 else answer())
    assert (decision.verdict, rounds) == ("go on", 60)


def test_answers_are_compared_as_soon_as_the_old_host_can_be_reached(run: Run) -> None:
    whole_answers = answer() | {"answers": [whole(6)] * 8}
    decision, _ = run(lambda name, number: None if name == "old" and number == 1 else whole_answers)
    assert decision.answers == 8


def test_a_release_with_slower_tokens_than_the_old_one_is_stopped(run: Run) -> None:
    decision, _ = run(lambda name, _: answer(between=0.02 if name == "new" else 0.005))
    assert (decision.verdict, decision.inter_token_s) == ("roll back", {"new": 0.02, "old": 0.005})
    assert "between tokens" in decision.text


def test_streams_that_break_at_the_gateway_count_as_failed(run: Run) -> None:
    decision, rounds = run(lambda *_: answer(), gateway=lambda number: 100 + 3 * number)
    assert (decision.verdict, decision.broken, rounds) == ("roll back", 3, 1)
    assert decision.text.startswith("3 of 3 requests of clients failed")
    decision, _ = run(lambda *_: answer(), gateway=lambda _: 100)
    assert (decision.verdict, decision.broken) == ("go on", 0), "those of before say nothing"
    decision, _ = run(lambda *_: answer(), gateway=lambda number: 100 if number < 2 else 5)
    assert (decision.verdict, decision.broken) == ("roll back", 5), "HAProxy counts anew after a restart"


@pytest.mark.parametrize("blind", ["host", "gateway"])
def test_a_step_holds_while_metrics_cannot_be_read(run: Run, blind: str) -> None:
    def answers(name: str, number: int, until: int) -> dict[str, Any]:
        return answer(finished=None if blind == "host" and name == "new" and number < until else 0.0)

    def gateway(number: int, until: int) -> int | None:
        return None if blind == "gateway" and number < until else 0

    held, rounds = run(partial(answers, until=30), gateway=partial(gateway, until=30))
    assert (held.verdict, rounds) == ("go on", 30), "as soon as they can be read again"
    held, _ = run(partial(answers, until=10_000), gateway=partial(gateway, until=10_000))
    what = {"host": "the metrics of new", "gateway": "gateway gate"}[blind]
    assert (held.verdict, held.text) == ("undecided", f"holds: cannot read {what}")


def test_a_bad_release_goes_back_although_metrics_cannot_be_read(run: Run) -> None:
    decision, rounds = run(lambda *_: answer(failed=5, finished=None))
    assert (decision.verdict, rounds) == ("roll back", 1)


def test_a_held_step_detects_failures_after_a_good_hour(run: Run) -> None:
    def turns(name: str, number: int) -> dict[str, Any]:
        bad = name == "new" and number > 600
        return answer(sent=4, failed=2 if bad else 0)

    held, rounds = run(lambda *_: answer(), hold_s=600)
    assert (held.verdict, rounds > 50) == ("go on", True)
    decision, rounds = run(turns, hold_s=7200)
    assert (decision.verdict, rounds < 700) == ("roll back", True)


def test_a_held_step_detects_a_slower_release_after_a_good_hour(run: Run) -> None:
    decision, rounds = run(lambda name, number: slow(name, number) if number > 600 else answer(), hold_s=7200)
    assert (decision.verdict, rounds < 640) == ("roll back", True)


def test_an_old_host_that_serves_nothing_is_compared_with_nothing(run: Run) -> None:
    decision, rounds = run(slow, models={"new": "m"})
    assert (decision.verdict, rounds) == ("go on", 8)


def test_a_request_of_a_person_ends_a_hold_of_hours(run: Run) -> None:
    decision, rounds = run(lambda *_: answer(), hold_s=7200, ends_after=20)
    assert (decision.verdict, decision.text, rounds) == ("undecided", "a person asked for something else", 20)


def test_a_new_host_that_cannot_answer_stops_the_rollout(run: Run) -> None:
    broken = ServeError("ready.pyz did not answer in JSON")
    decision, _ = run(lambda name, _: broken if name == "new" else answer())
    assert (decision.verdict, decision.text) == ("roll back", "new cannot be queried")
    decision, _ = run(lambda name, _: TransportError("no route") if name == "new" else answer())
    assert (decision.verdict, decision.text) == ("undecided", "new cannot be queried")
    decision, _ = run(lambda name, _: broken if name == "old" else answer())
    assert (decision.verdict, set(decision.first_token_s)) == ("go on", {"new"})


def test_a_step_holds_while_a_new_host_cannot_be_reached(run: Run) -> None:
    """A short outage of SSH says nothing about the release; clients are counted by the gateway meanwhile."""

    def away(until: int) -> Answers:
        return lambda name, number: None if name == "new" and 3 < number < until else answer()

    decision, rounds = run(away(20))
    assert (decision.verdict, rounds > 20) == ("go on", True)
    decision, _ = run(away(10_000))
    assert (decision.verdict, decision.text) == ("undecided", "holds: cannot read new, which cannot be reached")
    decision, rounds = run(away(10_000), gateway=lambda number: 3 * number if number > 4 else 0)
    assert (decision.verdict, rounds) == ("roll back", 5)


def test_failures_that_no_host_counts_are_counted_by_gateways(run: Run) -> None:
    """A server that ends takes its counters with it; those that it has counted are not counted twice."""

    def counted(name: str, number: int) -> dict[str, Any]:
        return answer() | {"counters": {"finished": 64.0 * number, "failed": float(name == "new" and number > 1)}}

    decision, _ = run(lambda *_: answer(), gateway=lambda number: (0, 5 if number else 0))
    assert (decision.verdict, decision.broken) == ("roll back", 5)
    decision, _ = run(counted, gateway=lambda number: (0, int(number > 1)))
    assert (decision.verdict, decision.broken, decision.failed) == ("go on", 0, 1)


def test_streams_that_vllm_ends_with_an_error_count_as_failed(run: Run) -> None:
    decision, rounds = run(lambda name, _: answer() | {"stream_errors": 3 if name == "new" else 0})
    assert (decision.verdict, decision.failed, rounds) == ("roll back", 3, 1)


def test_answers_of_one_model_are_compared_and_others_stop_the_rollout(run: Run) -> None:
    def answers(name: str, number: int, wrong: int) -> dict[str, Any]:
        texts = [whole(5 if name == "new" and text < wrong else 6) for text in range(8)]
        return answer() | ({"answers": texts} if number == 1 else {})

    decision, rounds = run(partial(answers, wrong=8))
    assert (decision.verdict, rounds, decision.answers, decision.differing) == ("roll back", 1, 8, 8)
    assert (
        "8 of 8 greedy answers differ from those of the old release: text 1, token 1 is 5 instead of 6" in decision.text
    )
    decision, _ = run(partial(answers, wrong=2))
    assert (decision.verdict, decision.differing) == ("go on", 2)
    assert "2 of 8 greedy answers differ" in decision.text, "a warning"
    decision, _ = run(partial(answers, wrong=8), models={"new": "m-2", "old": "m"})
    assert (decision.verdict, decision.answers) == ("go on", 0), "another model answers otherwise"


def test_another_model_may_be_slower_and_another_revision_may_not(run: Run) -> None:
    def slower(name: str, number: int) -> dict[str, Any]:
        return answer(seconds=0.5 if name == "new" else 0.01)

    decision, _ = run(slower, models={"new": "large-1a2b", "old": "small-3c4d"})
    assert decision.verdict == "go on"
    decision, _ = run(slower, models={"new": "large-1a2b", "old": "large-3c4d"})
    assert decision.verdict == "roll back"


def test_the_gate_says_why_a_text_was_not_compared(run: Run) -> None:
    def answers(name: str, number: int) -> dict[str, Any]:
        texts = [whole(6) for _ in range(7)]
        return answer() | ({"answers": [*texts, None], "left_out": {"8": "it is too long"}} if number == 1 else {})

    decision, _ = run(answers)
    assert (decision.verdict, decision.answers, decision.left_out) == ("go on", 7, 1)
    assert decision.text.endswith(
        "; 7 of 7 greedy answers equal those of the old release; 1 of 8 texts was left out: text 8: it is too long"
    )


def test_a_step_that_changes_no_host_compares_no_answers(run: Run) -> None:
    decision, _ = run(lambda *_: answer(), has_changed=False)
    assert (decision.verdict, decision.answers) == ("go on", 0)


def test_requests_of_clients_count_in_addition_to_synthetic_ones() -> None:
    one = answer() | {"counters": {"finished": 1300.0, "failed": 7.0}}
    first = rollout_gate.observed(one, None)
    assert (first.requests, first.failed) == (64, 0), "what came before the step is not of the step"
    during = rollout_gate.observed({**one, "counters_before": {"finished": 1200.0, "failed": 4.0}}, None)
    assert (during.requests, during.failed) == (103, 3), "requests of clients in the first round count"
    restarted = rollout_gate.observed(one, {"finished": 9000.0, "failed": 90.0})
    assert (restarted.requests, restarted.failed) == (64, 0)


def whole(token: int) -> dict[str, Any]:
    return {"tokens": [token] * 4, "logprobs": [-0.1] * 4, "runners_up": [9] * 4, "leads": [3.0] * 4}


@pytest.mark.parametrize(
    ("verdict", "differing", "status"), [("go on", 0, "ok"), ("go on", 1, "warn"), ("roll back", 0, "warn")]
)
def test_the_summary_says_what_was_decided(verdict: Verdict, differing: int, status: str) -> None:
    records: list[PhaseResult] = []
    context = SimpleNamespace(hosts=lambda: [SimpleNamespace(name=name) for name in NAMES], record=records.append)
    decision = Decision(step=0, at="", verdict=verdict, text="5 of 64 requests failed", differing=differing)
    rollout_gate._record(cast("RunContext", context), ["new"], decision)
    assert [(one.host, one.status) for one in records] == [("new", status), ("old", "ok")]
    assert records[0].text == f"the gate says `{verdict}`: 5 of 64 requests failed"
