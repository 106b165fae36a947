"""The gate of a rollout, round by round; answers of hosts and the clock are substitutes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provision.core.models.rollout import Decision
from provision.core.models.settings import Connection, Host, Inventory, Settings
from provision.core.run_folder import RunFolder
from provision.pipeline import rollout_gate
from provision.pipeline.context import RunContext
from provision.pipeline.results import ProbedHosts
from provision.report.live import open_progress

Answers = Callable[[str, int], dict[str, Any] | None]
"""The answer of a host in a round; None if it is unreachable."""
NAMES = ("new", "old")


def answer(sent: int = 64, failed: int = 0, seconds: float = 0.01, finished: float | None = None) -> dict[str, Any]:
    reasons = ["the server answered 500"] if failed else []
    return {
        "sent": sent,
        "failed": failed,
        "first_token_s": [seconds] * (sent - failed),
        "reasons": reasons,
        "counters": {} if finished is None else {"finished": finished, "failed": 0.0},
    }


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Decision, int]]:
    def run(answers: Answers, *, hold_s: float = 0.0) -> tuple[Decision, int]:
        """Return the decision, and after how many rounds it was made; a round and a pause take as long as they say."""
        clock = SimpleNamespace(now=0.0, rounds=0)

        def ask(
            context: RunContext, _probed: ProbedHosts, _requests: Mapping[str, Any], wanted: Mapping[str, int]
        ) -> dict[str, dict[str, Any]]:
            clock.now, clock.rounds = clock.now + 1.0, clock.rounds + 1
            found = {host.name: answers(host.name, clock.rounds) for host in context.hosts()}
            assert wanted["requests"] > 0
            return {name: one for name, one in found.items() if one is not None}

        def sleep(seconds: float) -> None:
            clock.now += seconds

        monkeypatch.setattr(rollout_gate, "_ask", ask)
        monkeypatch.setattr(rollout_gate, "live_states", lambda *_: {})
        monkeypatch.setattr(rollout_gate, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
        hosts = tuple(Host(name=name, connection=Connection(kind="local"), settings=Settings()) for name in NAMES)
        context = RunContext(
            run=RunFolder.create(tmp_path / "logs", command="rollout"),
            inventory=Inventory(source="test", hosts=hosts),
            progress=open_progress(list(NAMES), stream=io.StringIO(), environment={}),
            cache=tmp_path,
        )
        found = rollout_gate.gate(context, ProbedHosts(), new=["new"], old="old", step=1, hold_s=hold_s)
        return found.decision, clock.rounds

    return run


def test_eight_rounds_without_a_failure_pass(run: Callable[..., tuple[Decision, int]]) -> None:
    decision, rounds = run(lambda *_: answer())
    assert (decision.verdict, decision.step, decision.requests, decision.failed, rounds) == ("go on", 1, 512, 0, 8)
    assert decision.first_token_s == {"new": 0.01, "old": 0.01}


def test_traffic_of_clients_shortens_the_wait(run: Callable[..., tuple[Decision, int]]) -> None:
    decision, rounds = run(lambda _, number: answer(finished=1000.0 * number))
    assert (decision.verdict, decision.requests, rounds) == ("go on", 1064, 2)


def test_failures_stop_at_once_with_the_first_reason(run: Callable[..., tuple[Decision, int]]) -> None:
    decision, rounds = run(lambda name, _: answer(failed=5 if name == "new" else 0))
    assert (decision.verdict, rounds) == ("roll back", 1)
    assert decision.text == "5 of 64 requests failed; a healthy release fails at most 0.1%; the server answered 500"


def test_failures_of_the_old_release_stop_nothing(run: Callable[..., tuple[Decision, int]]) -> None:
    decision, _ = run(lambda name, _: answer(failed=5 if name == "old" else 0))
    assert decision.verdict == "go on"


def test_a_release_slower_than_the_old_one_is_stopped(run: Callable[..., tuple[Decision, int]]) -> None:
    decision, _ = run(lambda name, _: answer(seconds=0.2 if name == "new" else 0.1))
    assert (decision.verdict, decision.first_token_s) == ("roll back", {"new": 0.2, "old": 0.1})


def test_a_held_step_detects_failures_after_a_good_hour(run: Callable[..., tuple[Decision, int]]) -> None:
    def turns(name: str, number: int) -> dict[str, Any]:
        bad = name == "new" and number > 600
        return answer(sent=4, failed=2 if bad else 0)

    held, rounds = run(lambda *_: answer(), hold_s=600)
    assert (held.verdict, rounds > 50) == ("go on", True)
    decision, rounds = run(turns, hold_s=7200)
    assert (decision.verdict, rounds < 700) == ("roll back", True)


def test_only_an_unreachable_new_host_stops_the_rollout(
    run: Callable[..., tuple[Decision, int]],
) -> None:
    decision, _ = run(lambda name, _: None if name == "new" else answer())
    assert (decision.verdict, decision.text) == ("roll back", "new cannot be asked")
    decision, _ = run(lambda name, _: None if name == "old" else answer())
    assert (decision.verdict, set(decision.first_token_s)) == ("go on", {"new"})
