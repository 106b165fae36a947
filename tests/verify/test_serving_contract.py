"""The contract of the served API is kept by a sound engine, and each fault of an engine's API is noticed."""

from collections.abc import Iterator
from inspect import isfunction

import pytest

from tests.verify.served import served
from tests.verify.stub_api import FAULTS, Api, Handler
from tests.verify.test_serving_vectors import FAULTS as FAULTS_OF_VECTORS
from verify.checks.serving.requests import evaluate_contract as evaluate
from verify.serving import expectations
from verify.serving.client import Client, Endpoint
from verify.serving.contract import Asker, ask_all, stop_text
from verify.serving.expectations import Answer, Choice, deviations
from verify.tables import table


@pytest.fixture
def api() -> Iterator[Api]:
    with served(Api(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture
def asker(api: Api) -> Asker:
    return Asker(Client(Endpoint("127.0.0.1", api.server_port, "m"), 5.0, "k"), is_builtin=True)


def test_a_sound_engine_keeps_the_contract(asker: Asker) -> None:
    found = ask_all(asker, has_tools=True)
    assert found.deviations == ()
    assert found.checked == tuple(case["name"] for case in table("contract")["case"] if "task" not in case)
    outcome = evaluate(found, 1.5)
    assert (outcome.status, outcome.reason) == ("ok", f"{len(found.checked)} kinds of requests are answered correctly")


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_api_is_noticed(asker: Asker, api: Api, fault: str) -> None:
    api.fault = fault
    found = ask_all(asker, has_tools=True)
    assert [text for text in found.deviations if text.startswith(FAULTS[fault])], found.deviations
    assert evaluate(found, 1.0).status == "fail"


def test_every_expectation_is_used_and_has_a_fault_that_shows_it() -> None:
    cases = table("contract")["case"]
    defined = {name for name, one in vars(expectations).items() if isfunction(one) and not name.startswith("_")}
    assert {name for case in cases for name in case["expects"]} == defined - {"deviations", "dataclass", "table"}
    shown = {text.partition(":")[0] for text in (*FAULTS.values(), *FAULTS_OF_VECTORS)}
    assert {case["name"] for case in cases} - shown == set()


def test_a_model_without_a_chat_template_is_asked_no_chat(asker: Asker, api: Api) -> None:
    api.has_template = False
    found = ask_all(asker, has_tools=False)
    assert found.deviations == ()
    assert set(found.refused) == {case["name"] for case in table("contract")["case"] if case["route"] == "chat"} - {
        "tool call"
    }
    assert "not offered for this model: chat, streamed chat" in evaluate(found, 1.0).reason


def test_requests_end_when_their_time_is_over(asker: Asker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table("contract"), "budget_s", -1.0)
    outcome = evaluate(ask_all(asker, has_tools=False), 0.0)
    assert outcome.status == "warn"
    assert "0 kinds of requests are answered correctly; not tested in time: completion" in outcome.reason


def test_the_stop_text_is_part_of_a_text_that_any_tokenizer_can_split() -> None:
    assert stop_text("nuew�hl�nnme") in "nuew�hl�nnme"
    assert stop_text("nuew�hl�nnme").isascii()
    assert stop_text("") == "."


def test_a_near_tie_and_an_answer_that_a_limit_cuts_off_are_no_deviation() -> None:
    tie = Choice("x", (1,), (-0.75,), ((-0.75, -0.7),), "length")
    assert deviations({"expects": ["likeliest"]}, [Answer({"logprobs": 2}, (tie,), {})]) == []
    schema = {"json_schema": {"schema": {"enum": ["yes"]}}}
    cut = Choice('"y', finish_reason="length")
    assert deviations({"expects": ["valid"]}, [Answer({"response_format": schema}, (cut,), {})]) == []


@pytest.mark.parametrize(
    ("logprobs", "expected"), [((-0.7, -0.7), []), ((-0.7, -2.0), ["expected 2 equal choices, got 2 different ones"])]
)
def test_choices_may_part_where_two_tokens_are_about_equally_likely(
    logprobs: tuple[float, float], expected: list[str]
) -> None:
    choices = [
        Choice("ab", (1, 2 + number), (-0.1, logprob), ((-0.1,), (logprob, -0.7)))
        for number, logprob in enumerate(logprobs)
    ]
    assert deviations({"expects": ["equal"]}, [Answer({}, tuple(choices), {})]) == expected
