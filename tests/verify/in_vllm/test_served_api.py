"""`serving.answer`, `serving.contract` and `serving.soak` with vLLM's own server on this CPU: they pass with a sound one, and notice each fault."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from provision.phases.serve.onhost import builtin_model
from tests.verify.in_vllm.engine_server import started
from tests.verify.served_faults import ALL, ServedFault
from verify.checks.serving import answer, requests
from verify.serving.client import Client
from verify.serving.contract import Asker, ask_all
from verify.serving.service import Service
from verify.tables import table

SOAK_S = 20.0
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The server, as the product starts it for the built-in model; file `fault` names what is wrong with it."""
    prefix = tmp_path_factory.mktemp("served")
    model, reference = prefix / "models/builtin-1", prefix / "reference.json"
    builtin_model.make(model, reference)
    with started(prefix, model, *TOOLS, reference=str(reference)) as service:
        yield service


@pytest.mark.usefixtures("bfloat16")
def test_answers_to_prompts_up_to_3000_tokens_are_the_models(service: Service) -> None:
    (service.prefix / "fault").write_text("")
    outcome = answer.check_answer(service, whole=True)
    assert outcome.status == "ok", outcome.reason
    assert abs(outcome.evidence["prompt of 700 tokens"]["attention scale"]) < 0.006


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("fault", [fault for fault in ALL if fault.family == "answers"], ids=lambda fault: fault.name)
def test_wrong_answers_to_long_and_shared_prompts_are_noticed(service: Service, fault: ServedFault) -> None:
    (service.prefix / "fault").write_text(fault.name)
    outcome = answer.check_answer(service, whole=fault.level == "full")
    assert outcome.status == "fail"
    assert fault.words in outcome.reason


def test_a_sound_server_keeps_the_contract(service: Service) -> None:
    (service.prefix / "fault").write_text("")
    found = ask_all(Asker(Client(service.endpoint, 60.0, "k"), is_builtin=True), has_tools=True)
    assert found.deviations == ()
    assert (found.refused, found.late) == ({}, ())


def test_the_tool_call_is_made_before_the_answer_is_cut_off(service: Service) -> None:
    (service.prefix / "fault").write_text("")
    [case] = [case for case in table("contract")["case"] if case["name"] == "tool call"]
    for prompt in table("contract")["prompts"]:
        [answer] = Asker(Client(service.endpoint, 60.0, "k"), is_builtin=True).answers(case, prompt)
        [choice] = answer.choices
        assert (choice.finish_reason, len(choice.tool_calls)) == ("stop", 1), choice.text


@pytest.mark.parametrize("fault", [fault for fault in ALL if fault.family == "API"], ids=lambda fault: fault.name)
def test_what_breaks_the_contract_is_noticed(service: Service, fault: ServedFault) -> None:
    (service.prefix / "fault").write_text(fault.name)
    found = ask_all(Asker(Client(service.endpoint, 60.0, "k"), is_builtin=True), has_tools=True)
    assert [text for text in found.deviations if text.startswith(fault.words)], found.deviations


def test_tokens_count_for_the_client_that_is_named_as_the_answers_say(service: Service) -> None:
    (service.prefix / "fault").write_text("")
    headers = {"Authorization": "Bearer k", "Content-Type": "application/json", "X-Firstlight-Client": "app"}
    base = f"http://{service.endpoint.host}:{service.endpoint.port}"

    def ask(path: str, **body: Any) -> http.client.HTTPResponse:
        data = json.dumps({"model": "m", "max_tokens": 9, "ignore_eos": True, **body}).encode() if body else None
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(base + path, data, headers), timeout=60
        )
        return answer

    with ask("/v1/completions", prompt=[[5, 6, 7], [5, 6]], n=2) as answer:
        said = json.load(answer)["usage"]
    with ask("/v1/chat/completions", messages=[{"role": "user", "content": "a"}], stream=True) as answer:
        assert answer.read().endswith(b"data: [DONE]\n\n")
    with ask("/v1/completions", prompt=[5, 6, 7], stream=True, max_tokens=2000) as answer:
        assert answer.readline().startswith(b"data: ")
    with ask("/v1/completions", prompt=[5], max_tokens=1) as answer:
        answer.read()
    with ask("/firstlight/usage") as answer:
        minute, day = (line.split() for line in answer.read().decode().splitlines())
    assert (said["prompt_tokens"], said["completion_tokens"]) == (5, 36)
    with ask("/tokenize", messages=[{"role": "user", "content": "a"}]) as answer:
        chat = json.load(answer)["count"]
    assert minute[:2] == ["minute", "app"]
    assert day[:3] == ["day", "app", str(5 + chat + 3 + 1)]
    assert 36 + 9 + 1 + 1 <= int(day[3]) < 36 + 9 + 2000 + 1
    with ask("/metrics") as answer:
        assert f'firstlight_client_tokens_total{{client="app",kind="prompt"}} {day[2]}.0' in answer.read().decode()


@pytest.fixture
def short_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soak of short answers, so that a busy machine gives enough of them."""
    monkeypatch.setitem(table("soak")["check"], "seconds", SOAK_S)
    monkeypatch.setitem(table("soak")["load"], "output_tokens", 2)


@pytest.mark.usefixtures("short_soak")
def test_a_sound_server_does_not_leak(service: Service) -> None:
    (service.prefix / "fault").write_text("")
    outcome = requests.collect_soak(service)
    assert outcome.status == "ok", outcome.reason


@pytest.mark.usefixtures("short_soak")
@pytest.mark.parametrize("fault", [fault for fault in ALL if fault.family == "leaks"], ids=lambda fault: fault.name)
def test_what_requests_leave_behind_is_noticed(service: Service, fault: ServedFault) -> None:
    (service.prefix / "fault").write_text(fault.name)
    outcome = requests.collect_soak(service)
    assert outcome.status == "fail", outcome.reason
    assert outcome.reason.startswith(fault.words), outcome.reason
