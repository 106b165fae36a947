"""Answers of a service are compared with references, and requested from a real HTTP server that may answer wrongly or not at all."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.verify.served import Answering, served, service_behind
from verify.checks.serving.answer import check_answer as check
from verify.checks.serving.answer import problem_of, report_stopped
from verify.serving.answers import (
    Answer,
    check_model,
    check_prompt,
    check_text,
    compare_long,
    compare_reference,
    compare_text,
    compare_tokens,
    fit,
)
from verify.serving.client import Client, Endpoint
from verify.serving.processes import Process
from verify.serving.service import Service
from verify.tables import table

REFERENCE: dict[str, Any] = {
    "prompt": [1, 2],
    "tokens": [5, 6, 7, 8],
    "logprobs": [-0.1, -0.2, -0.3, -0.4],
    "gaps": [2.0, 0.2, 2.0, 2.0],
    "runners_up": [9, 9, 9, 9],
}
LAST: dict[str, Any] = {"logprobs": [-1.0, -2.0], "tokens": [5, 6], "release": "this", "at": "T", "prompt": "a text"}


class Forced(Client):
    """A client of a server that gives the last tokens of each prompt these log probabilities."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(Endpoint("", 0, ""), 0.0)
        self.values = values

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Answer as the server does."""
        if path == "/tokenize":
            return {"tokens": [*body["prompt"].encode()]}
        before = [-9.0] * (len(body["prompt"]) - len(self.values) - 1)
        entries = [{"1": {"logprob": value}} for value in (*before, *self.values)]
        return {"choices": [{"prompt_logprobs": [None, *entries]}]}


def answered(*tokens: int, last: float = -0.3) -> Answer:
    """Three tokens of which each is as likely as in the reference, but for the last one."""
    return Answer(tokens, (-0.1, -0.2, last))


@pytest.mark.parametrize(
    ("answer", "dtype", "words"),
    [
        (answered(5, 6, 7), "float32", None),
        (answered(5, 6, 7, last=-0.5), "bfloat16", None),
        (answered(5, 6, 7, last=-0.5), "float32", "but log probabilities differ by up to 0.20; float32 rounds"),
        (answered(5, 6, 7, last=math.nan), "bfloat16", "but log probabilities differ by up to inf"),
        (answered(5, 6, 1), "float32", "token 3 of 3 is 1, transformers in float32 says 7, whose logit leads by 2.00"),
        (answered(5, 9, 1), "bfloat16", None),
        (answered(5, 9, 1), "float32", "token 2 of 3 is 9"),
        (answered(5, 1, 1), "bfloat16", "token 2 of 3 is 1, transformers in float32 says 6, and after that 9"),
        (Answer((), ()), "float32", "the server answered 0 tokens instead of 3"),
    ],
)
def test_the_reference_decides_except_for_a_tie_within_the_rounding(
    answer: Answer, dtype: str, words: str | None
) -> None:
    client = Forced(REFERENCE["logprobs"][:3])
    found = problem_of(partial(compare_reference, answer, REFERENCE, client, length=3, dtype=dtype))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


@pytest.mark.parametrize(
    ("token", "logprob", "words"),
    [
        (0, -0.1, None),
        (0, -0.6, None),
        (0, -0.8, "token 1 has log probability -0.800, the model has -0.100"),
        (2, -5.0, "token 1 of 1 is 2, and 0 leads by 4.90"),
        (0, math.nan, "token 1 has log probability nan"),
    ],
)
def test_the_model_itself_decides_about_a_new_prompt(token: int, logprob: float, words: str | None) -> None:
    found = problem_of(lambda: check_model(Answer((token,), (logprob,)), [[-0.1, -3.0, -5.0]], "bfloat16"))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


@pytest.mark.parametrize(
    ("values", "dtype", "words"),
    [
        ([-1.0, -9.0], "float32", None),
        ([-1.5, -8.5], "bfloat16", None),
        ([-1.5, -8.5], "float16", "token 2 of a prompt has log probability -1.500, the model has -1.000"),
        ([-1.0, -9.7], "bfloat16", "token 3 of a prompt has log probability -9.700, the model has -9.000"),
        ([-1.0, math.nan], "bfloat16", "token 3 of a prompt has log probability nan"),
        ([-1.0], "bfloat16", "1 log probabilities came for a prompt of 3 tokens"),
    ],
)
def test_each_token_of_a_prompt_is_as_likely_as_in_the_model(
    values: list[float], dtype: str, words: str | None
) -> None:
    found = problem_of(lambda: check_text(values, [-1.0, -9.0], dtype))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


@pytest.mark.parametrize(
    ("values", "release", "words"),
    [
        ([-1.01, -2.01], "this", None),
        (
            [-1.05, -2.05],
            "this",
            "by 0.0500 on average, by up to 0.0500 (token 2: -1.000 then, -1.050 now); allowed 0.02 on average",
        ),
        ([-1.05, -2.05], "another", None),
        ([-1.0], "this", "2 tokens, 3 in the last green run"),
        ([math.nan, -2.0], "this", "by inf on average"),
    ],
)
def test_a_users_model_gives_the_answer_of_its_last_green_run(
    values: list[float], release: str, words: str | None
) -> None:
    found = problem_of(lambda: compare_text(values, LAST, release))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


def test_another_token_than_in_the_last_green_run_is_wrong_if_the_earlier_one_is_far_less_likely() -> None:
    other = Answer((5, 1), (-0.1, -0.2))
    compare = partial(compare_tokens, length=2, dtype="float32", release="this")
    same = Answer((5, 6), (0.0, 0.0))
    assert compare(same, LAST, Forced([])) == "2 greedy tokens equal those of the last green run"
    assert compare(other, LAST, Forced([-0.1, -0.2004])).endswith(": a near tie, 0.000 nats apart")
    assert problem_of(lambda: compare(other, LAST, Forced([-0.1, -3.2]))) == (
        "greedy token 2 of 2 is 1, 6 in the last green run (T, this release), which is now 3.00 nats less likely;"
        " float32 rounds by at most 0.001"
    )


class Front(ThreadingHTTPServer):
    """A substitute for the HTTP server in front of an engine: it streams tokens, stops after some, and counts."""

    daemon_threads = True
    tokens: tuple[int, ...] = (5, 6, 7, 8)
    stops_after = 99
    stopping = math.inf
    """How many requests it stops in; it answers those after them."""
    counts = False
    count = 0
    context = 4096
    """Positions of the model."""
    alone: float | None = None
    """Log probability of each of its tokens in a prompt; None: as in an answer."""


class Handler(Answering):
    server: Front

    def do_GET(self) -> None:  # noqa: N802 - as http.server names it
        self.server.count += self.server.counts
        models = {"data": [{"max_model_len": self.server.context}]}
        self.answer(
            models if self.path == "/v1/models" else f"vllm:generation_tokens_total {self.server.count}\n".encode()
        )

    def do_POST(self) -> None:  # noqa: N802 - as http.server names it
        asked = json.loads(self.received())
        if self.path == "/tokenize":
            self.answer({"tokens": [*asked["prompt"].encode()]})
        elif "prompt_logprobs" in asked:
            alone = [*REFERENCE["logprobs"]] if self.server.alone is None else [self.server.alone] * 4
            values = [None, *[-1.0] * (len(asked["prompt"]) - 5), *alone]
            entries = [value if value is None else {"1": {"logprob": value}} for value in values]
            self.answer({"choices": [{"prompt_logprobs": entries}]})
        else:
            self.stream(self.events(asked["max_tokens"]))

    def events(self, length: int) -> Iterator[dict[str, Any]]:
        """Yield a token at a time, up to the one after which the engine stops."""
        self.server.stopping -= 1
        is_stopping = self.server.stopping >= 0
        for place, token in enumerate(self.server.tokens[:length]):
            if is_stopping and place >= self.server.stops_after:
                time.sleep(30)
            logprobs = {"tokens": [f"token_id:{token}"], "token_logprobs": [REFERENCE["logprobs"][place]]}
            yield {"choices": [{"logprobs": logprobs}]}


@pytest.fixture
def front() -> Iterator[Front]:
    with served(Front(("127.0.0.1", 0), Handler)) as server:
        yield server


@pytest.fixture
def service(tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch) -> Service:
    limits = table("serving")["answer"]
    for name, value in (("watch_s", 0.2), ("tokens", 4)):
        monkeypatch.setitem(limits, name, value)
    return service_behind(front, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for an engine that stops; one that answers keeps the time that a busy machine may need."""
    limits = table("serving")["answer"]
    for name, value in (("silence_s", 0.5), ("working_silence_s", 1.0)):
        monkeypatch.setitem(limits, name, value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cores", "after", "stopping", "reason"),
    [
        (1.0, 0, 1, None),
        (0.1, 0, 1, None),
        (1.0, 0, math.inf, "its engine is frozen: /v1/completions: nothing came for 1 s"),
        (0.01, 2, 1, "its engine is frozen: /v1/completions: nothing came for 0.5 s"),
    ],
    ids=["compiles", "compiles on busy processors", "never ends", "idle after two tokens"],
)
@pytest.mark.usefixtures("impatient")
def test_an_engine_at_work_is_given_a_second_request(
    service: Service,
    front: Front,
    monkeypatch: pytest.MonkeyPatch,
    *,
    cores: float,
    after: int,
    stopping: float,
    reason: str | None,
) -> None:
    front.stops_after, front.stopping = after, stopping
    monkeypatch.setattr(Service, "cores", lambda *_: cores)
    if reason is None:
        monkeypatch.setitem(table("serving")["answer"], "working_silence_s", 30.0)
    outcome = check(service)
    assert (outcome.status, outcome.reason if reason else None) == ("fail" if reason else "ok", reason)


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
def test_an_engine_that_is_busy_with_other_requests_is_no_failure(
    service: Service, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    front.stops_after, front.counts = 0, True  # the second request waits too
    monkeypatch.setattr(Service, "cores", lambda *_: 0.0)
    # A busy machine answers for its metrics in this time.
    monkeypatch.setitem(table("serving")["answer"], "watch_s", 30.0)
    outcome = check(service)
    assert outcome.status == "warn"
    assert "answers others and left this request waiting" in outcome.reason


@pytest.mark.slow
def test_a_users_model_without_a_green_run_must_answer(service: Service) -> None:
    outcome = check(service)
    assert outcome.status == "ok"
    assert "no green run kept answers to compare with" in outcome.reason


def test_answers_to_requests_at_once_are_those_of_each_prompt_alone(service: Service, front: Front) -> None:
    front.alone = -3.0
    outcome = check(service)
    assert outcome.status == "fail"
    assert outcome.reason == (
        "its answer differs from its answers to the same prompts alone: prompt 1 of 4 with a shared prefix, sent at once:"
        " log probabilities of its answer differ by 2.75 on average from those of the same text alone; allowed 0.2"
    )
    front.context = 200
    assert check(service).status == "ok"


@pytest.mark.parametrize(
    ("errors", "dtype", "words"),
    [
        ([0.02, -0.02], "bfloat16", None),
        ([0.06, -0.06], "bfloat16", "log probabilities of a prompt of 5 tokens differ by 0.06 (root mean square)"),
        ([0.00005, -0.00005], "float32", None),
        ([0.0102, 0.0098], "bfloat16", "as by a model whose attention scale is +2.0% off; allowed 1%"),
        ([-0.01, -0.01], "bfloat16", "as by a model whose attention scale is -2.0% off"),
        ([math.nan, 0.0], "bfloat16", "differ by nan"),
    ],
)
def test_each_token_of_a_long_prompt_is_compared_with_two_models(
    errors: list[float], dtype: str, words: str | None
) -> None:
    exact = [-1.0, -2.0]
    scaled = [value + 0.01 for value in exact]
    fitted = fit([e + d for e, d in zip(exact, errors, strict=True)], exact, scaled)
    found = problem_of(lambda: check_prompt(fitted, 5, dtype))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer((5, 6), (-0.11, -0.2)), None),
        (Answer((5, 6), (-0.2, -0.2)), "after a text of 6 characters differ from the last green run by 0.0500"),
        (Answer((7, 6), (-0.3, -9.0)), None),  # a tie, after which the text is another one
        (
            Answer((7, 6), (-0.5, -9.0)),
            "differ from the last green run by 0.4000 on average over 1 tokens; allowed 0.3",
        ),
    ],
)
def test_the_answer_to_a_long_text_is_that_of_the_last_green_run(answer: Answer, words: str | None) -> None:
    last = {"prompt": "a text", "tokens": [5, 6], "logprobs": [-0.1, -0.2]}
    found = problem_of(lambda: compare_long(answer, last, 0.02, "bfloat16"))
    assert (found is None) == (words is None)
    assert (words or "") in (found or "")


def test_a_users_model_is_asked_the_texts_of_its_last_green_run(service: Service) -> None:
    """At level `full` also those after the first long one."""
    logprobs = REFERENCE["logprobs"]
    long = {"prompt": "a long text", "tokens": [5, 6, 7, 8], "logprobs": logprobs}
    last: dict[str, Any] = {"prompt": "a short text", "release": None, "at": "T", "tokens": [5, 6, 7, 8]}
    last |= {
        "logprobs": [*[-1.0] * 7, *logprobs],
        "long": [long, {**long, "prompt": "another", "logprobs": [-3.0] * 4}],
    }
    (service.prefix / "verify/logprobs-m.json").write_text(json.dumps(last))
    assert check(service).reason.startswith("its greedy answers match the last green run and its answers to the same")
    outcome = check(service, whole=True)
    assert outcome.status == "fail"
    assert "after a text of 7 characters differ from the last green run by 2.7500 on average" in outcome.reason


def builtin(service: Service, load: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch) -> Service:
    """The same service with the built-in model, which `load` reads."""
    path = service.prefix / "reference.json"
    path.write_text(json.dumps(REFERENCE))
    stand_in = SimpleNamespace(load=load, use_one_thread=lambda: None)
    monkeypatch.setitem(sys.modules, "verify.serving.small_llama", stand_in)
    return replace(service, readiness={**service.readiness, "reference": str(path)})


def test_a_new_prompt_detects_canned_answers(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server answers every prompt with the reference's tokens; the substitute model computes that another token follows."""

    class Rows(list[Any]):
        def tolist(self) -> list[Any]:
            return list(self)

        def __getitem__(self, place: Any) -> Any:
            return Rows(super().__getitem__(place)) if isinstance(place, slice) else super().__getitem__(place)

    class Model:
        def __init__(self) -> None:
            self.config = {"vocab_size": 16}

        def logprobs(self, tokens: list[int]) -> Rows:
            return Rows([-0.001 if token == 11 else -9.0 for token in range(16)] for _ in tokens)

    outcome = check(builtin(service, lambda _: Model(), monkeypatch))
    assert outcome.status == "fail"
    assert outcome.reason.startswith("its answer differs from the model in float64: token 1 of 4 is 5, and 11 leads")


def test_a_model_whose_files_cannot_be_read_is_a_failure(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: Path) -> None:
        raise ValueError("/m/model.safetensors cannot be read: HeaderTooLarge")

    outcome = check(builtin(service, load, monkeypatch))
    assert outcome.status == "fail"
    assert outcome.reason == "/m/model.safetensors cannot be read: HeaderTooLarge"
    assert "model's files" in (outcome.remedy or "")


def test_a_stopped_process_is_named_without_a_request() -> None:
    engine = Process(8, 7, state="T", argv=("VLLM::EngineCore",))
    outcome = report_stopped([engine])
    assert (outcome.status, outcome.reason) == (
        "fail",
        "no request is answered: a signal has stopped VLLM::EngineCore (PID 8) (state T)",
    )
    assert (outcome.remedy or "").startswith("continue it: kill -CONT 8")


def test_a_frozen_engine_is_not_put_under_load() -> None:
    assert "serving.answer" in table("checks")["serving"]["load"]["requires"]
