"""The contract of the served API: requests of data/contract.toml, their answers, and what must hold of them."""

from __future__ import annotations

import base64
import json
import math
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from verify.serving.client import Client, NoAnswerError, RefusedError, RequestError
from verify.tables import table

PATHS = {
    "completions": "/v1/completions",
    "chat": "/v1/chat/completions",
    "embeddings": "/v1/embeddings",
    "score": "/v1/score",
    "rerank": "/v1/rerank",
}
NO_TEMPLATE = "chat template"
"""What vLLM's refusal of a chat names where the model has no such template."""
ID_PREFIX = "token_id:"
BAD_REQUEST = 400
OPEN = "?"
"""Stop text in the table that the first answer fills in."""


@dataclass(frozen=True)
class Choice:
    """One choice of an answer."""

    text: str
    tokens: tuple[int, ...] = ()
    """Ids, from the log probabilities."""
    logprobs: tuple[float, ...] = ()
    top: tuple[tuple[float, ...], ...] = ()
    """Log probabilities of the most likely tokens, for each token."""
    finish_reason: str | None = None
    decoded: str | None = None
    """Text of the ids by the server's tokenizer; None where it has no such route."""
    tool_calls: Sequence[Mapping[str, Any]] = ()
    index: int = 0


@dataclass(frozen=True)
class Answer:
    """One answer, and what was asked."""

    body: Mapping[str, Any]
    choices: tuple[Choice, ...]
    usage: Mapping[str, Any]
    prompt_tokens: int | None = None
    """Tokens of the prompt by the server's tokenizer; None where they are unknown."""
    is_whole: bool = True
    """Whether the choices have every token; a parser of reasoning takes some away."""
    entries: tuple[Mapping[str, Any], ...] = ()
    """Vectors or scores, of a model that makes these."""
    inputs: int = 0
    """Number of texts that have one."""


@dataclass(frozen=True)
class Findings:
    """Outcome of all requests."""

    deviations: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    """By name of a case: why the server does not offer it for this model."""
    late: tuple[str, ...] = ()
    """Cases that were not asked in time."""
    inherited: tuple[str, ...] = ()
    """Of a gateway: what the servers behind it deviate in when they are asked themselves."""


@dataclass(frozen=True)
class Asker:
    """Sends the requests of a case to one service."""

    client: Client
    key: str | None
    is_builtin: bool
    has_reasoning: bool = False
    """Whether a parser takes the reasoning out of a chat's text."""
    task: str = "generate"
    """What the model makes: text, embeddings (`embed`), or scores of pairs of texts (`score`)."""

    def answers(self, case: Mapping[str, Any], prompt: str) -> list[Answer]:
        """Return the answers to a case's requests, in their order. Raises RequestError."""
        asked = {**(table("contract")["common"] if self.task == "generate" else {}), **case["body"]}
        answers = [self._answer(case, asked, prompt)]
        for more in case.get("further", ()):
            body = {**asked, **more}
            if body.get("stop") == OPEN:
                body["stop"] = stop_text(answers[0].choices[0].text)
            answers.append(self._answer(case, body, prompt))
        return answers

    def _answer(self, case: Mapping[str, Any], body: Mapping[str, Any], prompt: str) -> Answer:
        if self.task != "generate":
            return self._vectors(case["route"], body, prompt)
        path, is_chat = PATHS[case["route"]], case["route"] == "chat"
        question: dict[str, Any] = (
            {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
        )
        if case.get("stream"):
            whole = {**question, **body, "stream_options": {"include_usage": True}}
            choices, usage = joined(self.client.stream(path, whole, self.key))
        else:
            document = self.client.post(path, {**question, **body}, self.key)
            choices, usage = [parsed(one) for one in document["choices"]], document.get("usage") or {}
        if is_chat and self.has_reasoning:
            rest = [replace(one, tokens=(), logprobs=(), top=()) for one in choices]
            return Answer(body, tuple(rest), usage, is_whole=False)
        count = self._tokenizer("/tokenize", question, "count")
        shown = [
            replace(one, decoded=self._tokenizer("/detokenize", {"tokens": one.tokens}, "prompt")) for one in choices
        ]
        return Answer(body, tuple(shown), usage, count)

    def _vectors(self, route: str, body: Mapping[str, Any], prompt: str) -> Answer:
        texts = [prompt, *(text for text in table("contract")["prompts"] if text != prompt)]
        questions: Mapping[str, Mapping[str, Any]] = {
            "embeddings": {"input": texts},
            "score": {"text_1": prompt, "text_2": texts},
            "rerank": {"query": prompt, "documents": texts},
        }
        document = self.client.post(PATHS[route], {**questions[route], **body}, self.key)
        counts = [self._tokenizer("/tokenize", {"prompt": text}, "count") for text in texts]
        tokens = sum(counts) if route == "embeddings" and all(counts) else None
        entries = tuple(document["results" if route == "rerank" else "data"])
        return Answer(body, (), document.get("usage") or {}, tokens, entries=entries, inputs=len(texts))

    def _tokenizer(self, path: str, body: Mapping[str, Any], name: str) -> Any:
        """Return a value of an answer of the server's tokenizer; None if this server has none."""
        try:
            return self.client.post(path, body, self.key).get(name)
        except RefusedError:
            return None


def ask_all(asker: Asker, *, has_tools: bool, behind: Sequence[Asker] = ()) -> Findings:
    """Ask every case that applies; a deviating one is asked again with other prompts.

    Args:
        asker: Asks the server.
        has_tools: Whether the server has a parser of tool calls.
        behind: Where the server is a gateway: they ask the servers that it passes requests on to. What these answer differently
            than asked is no deviation of the gateway.

    Returns:
        What was found.

    Raises:
        NoAnswerError: The server sent nothing within the limit, nor did those behind it.
    """
    limits = table("contract")
    applies = {"tools": has_tools, "one host": len(behind) <= 1}
    cases = [
        case
        for case in limits["case"]
        if applies.get(case.get("needs"), True) and case.get("task", "generate") == asker.task
    ]
    until = time.monotonic() + limits["budget_s"]
    ask = partial(_ask_gateway, asker, behind) if behind else partial(_ask, asker)
    with ThreadPoolExecutor(limits["at_once"]) as pool:
        return combine(list(pool.map(partial(ask, until=until), cases)))


def _ask_gateway(gateway: Asker, behind: Sequence[Asker], case: Mapping[str, Any], until: float) -> Findings:
    """Ask a gateway; where its answer deviates, also the servers behind it."""
    name = case["name"]
    try:
        found = _ask(gateway, case, until)
    except NoAnswerError as silence:
        found = Findings((f"{name}: {silence}",), checked=(name,))
    if not (found.deviations or found.refused):
        return found
    until = max(until, time.monotonic() + table("contract")["silence_s"])
    own = combine([_ask(one, case, until) for one in behind])
    if own.deviations or own.refused or own.late:
        return replace(own, deviations=(), checked=(), inherited=own.deviations)
    refused = tuple(f"{name}: expected the answer of its hosts, got {text}" for text in found.refused.values())
    return Findings(found.deviations + refused, checked=(name,))


def _ask(asker: Asker, case: Mapping[str, Any], until: float) -> Findings:
    found: list[str] = []
    name = case["name"]
    for prompt in table("contract")["prompts"]:
        if time.monotonic() > until:
            return Findings(late=(name,))
        try:
            found = deviations(case, asker.answers(case, prompt))
        except NoAnswerError:
            raise
        except RefusedError as refusal:
            may_refuse = refusal.status == BAD_REQUEST and (not asker.is_builtin or NO_TEMPLATE in str(refusal))
            if may_refuse:
                return Findings(refused={name: str(refusal)})
            found = [f"expected an answer, got {refusal}"]
        except (RequestError, KeyError, TypeError, ValueError) as problem:
            found = [f"expected an answer, got {problem!r}"]
        if not found:
            break
    return Findings(tuple(f"{name}: {text}" for text in found), checked=(name,))


def combine(findings: Sequence[Findings]) -> Findings:
    """Return the findings of all cases as one."""
    return Findings(
        tuple(text for one in findings for text in one.deviations),
        tuple(name for one in findings for name in one.checked),
        {name: text for one in findings for name, text in one.refused.items()},
        tuple(name for one in findings for name in one.late),
        tuple(text for one in findings for text in one.inherited),
    )


def parsed(choice: Mapping[str, Any]) -> Choice:
    """Return a choice of either route, whole or a part of a stream."""
    message = choice.get("message") or choice.get("delta") or {}
    found = choice.get("logprobs") or {}
    if "content" in found:
        entries = found["content"] or ()
        ids = [entry["token"] for entry in entries]
        logprobs = [entry["logprob"] for entry in entries]
        top = [tuple(one["logprob"] for one in entry.get("top_logprobs") or ()) for entry in entries]
    else:
        ids, logprobs = found.get("tokens") or [], found.get("token_logprobs") or []
        top = [tuple((one or {}).values()) for one in found.get("top_logprobs") or ()]
    return Choice(
        choice.get("text") or message.get("content") or "",
        tuple(int(id_[len(ID_PREFIX) :]) for id_ in ids if id_.startswith(ID_PREFIX)),
        tuple(logprobs),
        tuple(top),
        choice.get("finish_reason"),
        tool_calls=message.get("tool_calls") or (),
        index=choice.get("index", 0),
    )


def joined(events: Iterator[Mapping[str, Any]]) -> tuple[list[Choice], Mapping[str, Any]]:
    """Return the choices and the usage of a stream, whose parts are put together."""
    choices: dict[int, Choice] = {}
    usage: Mapping[str, Any] = {}
    for event in events:
        usage = event.get("usage") or usage
        for part in map(parsed, event.get("choices") or ()):
            so_far = choices.get(part.index, Choice("", index=part.index))
            choices[part.index] = replace(
                part,
                text=so_far.text + part.text,
                tokens=so_far.tokens + part.tokens,
                logprobs=so_far.logprobs + part.logprobs,
                top=so_far.top + part.top,
                finish_reason=part.finish_reason or so_far.finish_reason,
            )
    return list(choices.values()), usage


def stop_text(text: str) -> str:
    """Return two characters from the middle of a text, at which the same text must stop when it is asked again."""
    middle = [place for place in range(1, len(text) - 1) if text[place : place + 2].isascii() and text[place].strip()]
    place = middle[len(middle) // 2] if middle else 0
    return text[place : place + 2] or "."


def deviations(case: Mapping[str, Any], answers: Sequence[Answer]) -> list[str]:
    """Return what the answers to a case differ in from what it expects: expected and received values, a text each."""
    return [text for name in case["expects"] for text in EXPECTATIONS[name](answers)]


def counted(answers: Sequence[Answer]) -> Iterator[str]:
    """Each choice has `max_tokens` tokens and ends for that; `usage` counts them and the prompt's."""
    for answer in answers:
        asked = answer.body["max_tokens"]
        lengths = [len(choice.logprobs) if answer.is_whole else asked for choice in answer.choices]
        for choice, length in zip(answer.choices, lengths):
            if length != asked:
                yield f"expected {asked} tokens (max_tokens), got {length}"
            if choice.finish_reason != "length":
                yield f"expected finish_reason length, got {choice.finish_reason}"
        answered = sum(lengths)
        prompt = answer.prompt_tokens if answer.prompt_tokens is not None else answer.usage.get("prompt_tokens", 0)
        for name, expected in {
            "prompt_tokens": prompt,
            "completion_tokens": answered,
            "total_tokens": prompt + answered,
        }.items():
            if answer.usage.get(name) != expected:
                yield f"expected {expected} {name} in usage, got {answer.usage.get(name)}"


def decoded(answers: Sequence[Answer]) -> Iterator[str]:
    """The text is that of the token ids."""
    for choice in (choice for answer in answers for choice in answer.choices):
        if choice.decoded is not None and choice.tokens and _letters(choice.text) != _letters(choice.decoded):
            yield f"expected the text of its token ids, `{choice.decoded}`, got `{choice.text}`"


def _letters(text: str) -> str:
    """Return a text without what decoding piece by piece may change: spaces, and bytes that are no UTF-8."""
    return "".join(text.replace("\ufffd", "").split())


def likeliest(answers: Sequence[Answer]) -> Iterator[str]:
    """Every token has the largest of the log probabilities that come with it."""
    tie = table("contract")["tie"]
    for answer in answers:
        asked = answer.body.get("top_logprobs", answer.body["logprobs"])
        for choice in answer.choices:
            if len(choice.top) != len(choice.logprobs):
                yield f"expected the most likely tokens for each of {len(choice.logprobs)}, got them for {len(choice.top)}"
            for place, (logprob, top) in enumerate(zip(choice.logprobs, choice.top), 1):
                total = sum(math.exp(value) for value in top)
                if len(top) < asked:
                    yield f"expected {asked} log probabilities for token {place}, got {len(top)}"
                elif not logprob >= max(top) - tie:
                    yield f"expected the most likely token {place} at temperature 0, got one {max(top) - logprob:.2f} nats behind"
                elif not (logprob <= 0 and total <= 1.001):
                    yield f"expected probabilities up to 1 for token {place}, got {math.exp(logprob):.3g} of {total:.3g}"


def stopped(answers: Sequence[Answer]) -> Iterator[str]:
    """The second answer is the first one up to the stop text."""
    first, second = (answer.choices[0] for answer in answers)
    stop = answers[1].body["stop"]
    if stop in second.text:
        yield f"expected no text from `{stop}` on, got `{second.text}`"
    elif stop in first.text and first.text.partition(stop)[0] == second.text and second.finish_reason != "stop":
        yield f"expected finish_reason stop at `{stop}`, got {second.finish_reason}"


def numbered(answers: Sequence[Answer]) -> Iterator[str]:
    """There are `n` choices, numbered from 0."""
    for answer in answers:
        indices = sorted(choice.index for choice in answer.choices)
        if indices != list(range(answer.body["n"])):
            yield f"expected choices 0 to {answer.body['n'] - 1}, got {indices}"


def repeatable(answers: Sequence[Answer]) -> Iterator[str]:
    """The first two answers, which have one seed, are equal, and the third differs."""
    first, again, other = (answer.choices[0].tokens for answer in answers)
    seeds = [answer.body["seed"] for answer in answers]
    if first != again:
        yield f"expected the same tokens for seed {seeds[0]} again, {list(first)}, got {list(again)}"
    elif first == other:
        yield f"expected other tokens for seed {seeds[2]} than for seed {seeds[0]}, got {list(first)} for both"


def equal(answers: Sequence[Answer]) -> Iterator[str]:
    """All choices are equal: only the most likely token may be drawn."""
    for answer in answers:
        if len(found := {choice.tokens for choice in answer.choices}) > 1:
            yield f"expected {len(answer.choices)} equal choices, got {len(found)} different ones"


def varied(answers: Sequence[Answer]) -> Iterator[str]:
    """Not all choices are equal."""
    for answer in answers:
        if len({choice.tokens for choice in answer.choices}) == 1:
            yield f"expected different choices, got {len(answer.choices)} equal ones"


def distinct(answers: Sequence[Answer]) -> Iterator[str]:
    """No token comes twice: the penalty exceeds what several tokens differ by."""
    for choice in (choice for answer in answers for choice in answer.choices):
        if len(set(choice.tokens)) < len(choice.tokens):
            yield f"expected {len(choice.tokens)} distinct tokens, got {list(choice.tokens)}"


def penalised(answers: Sequence[Answer]) -> Iterator[str]:
    """The penalty changes an answer that repeats tokens."""
    free, changed = (answer.choices[0].tokens for answer in answers)
    if free == changed and len(set(free)) < len(free):
        yield f"expected other tokens than without the penalty, got {list(changed)}"


def valid(answers: Sequence[Answer]) -> Iterator[str]:
    """The text is JSON of the schema, unless `max_tokens` cut it off."""
    for answer in answers:
        allowed = answer.body["response_format"]["json_schema"]["schema"]["enum"]
        for choice in answer.choices:
            if choice.finish_reason != "length" and _json(choice.text) not in allowed:
                yield f"expected JSON of {allowed}, got `{choice.text}`"


def called(answers: Sequence[Answer]) -> Iterator[str]:
    """The requested tool is called with arguments of its schema, unless `max_tokens` cut them off."""
    for answer in answers:
        function = answer.body["tools"][0]["function"]
        [(name, values)] = function["parameters"]["properties"].items()
        for choice in answer.choices:
            calls = [one["function"] for one in choice.tool_calls]
            given = [_json(one["arguments"]) for one in calls]
            is_right = (
                [one["name"] for one in calls] == [function["name"]]
                and isinstance(given[0], dict)
                and given[0].get(name) in values["enum"]
            )
            if choice.finish_reason != "length" and not is_right:
                yield f"expected a call of `{function['name']}` with `{name}` of {values['enum']}, got {calls}"


def numbered_vectors(answers: Sequence[Answer]) -> Iterator[str]:
    """Each text has one vector or score, in the order of the texts, of finite numbers and the same size; `usage` counts the texts' tokens."""
    for answer in answers:
        indices = [entry["index"] for entry in answer.entries]
        if indices != list(range(answer.inputs)):
            yield f"expected vectors 0 to {answer.inputs - 1} in their order, got {indices}"
        found = [_vector(entry) for entry in answer.entries]
        if len({len(vector) for vector in found}) > 1 or not all(
            math.isfinite(value) for one in found for value in one
        ):
            yield f"expected vectors of one size and of finite numbers, got {[len(one) for one in found]}"
        if answer.prompt_tokens is not None and answer.usage.get("prompt_tokens") != answer.prompt_tokens:
            yield f"expected {answer.prompt_tokens} prompt_tokens in usage, got {answer.usage.get('prompt_tokens')}"


def same_vectors(answers: Sequence[Answer]) -> Iterator[str]:
    """The second answer, in another encoding, has the vectors of the first."""
    for number, pair in enumerate(zip(*(answer.entries for answer in answers))):
        first, second = map(_vector, pair)
        off = math.dist(first, second) if len(first) == len(second) else math.inf
        if not off <= table("contract")["apart"] * math.hypot(*first):
            yield f"expected vector {number} in another encoding, got one at distance {off:.3g}"


def ordered(answers: Sequence[Answer]) -> Iterator[str]:
    """All documents are there, the most relevant first; the second answer is the first `top_n` of them."""
    first, best = ([entry["index"] for entry in answer.entries] for answer in answers)
    scores = [entry["relevance_score"] for entry in answers[0].entries]
    if sorted(first) != list(range(answers[0].inputs)):
        yield f"expected documents 0 to {answers[0].inputs - 1}, got {first}"
    if scores != sorted(scores, reverse=True):
        yield f"expected the most relevant document first, got scores {scores}"
    if len(best) != answers[1].body["top_n"]:
        yield f"expected {answers[1].body['top_n']} document (top_n), got {best}"


def _vector(entry: Mapping[str, Any]) -> list[float]:
    """Return the numbers of an entry, which may be encoded as little-endian float32 in base64."""
    value = entry.get("embedding", entry.get("score"))
    if isinstance(value, str):
        content = base64.b64decode(value)
        return list(struct.unpack(f"<{len(content) // 4}f", content))
    return list(map(float, value)) if isinstance(value, list) else [float(str(value))]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


_ALL = (
    counted,
    decoded,
    likeliest,
    stopped,
    numbered,
    repeatable,
    equal,
    varied,
    distinct,
    penalised,
    valid,
    called,
    numbered_vectors,
    same_vectors,
    ordered,
)
EXPECTATIONS: Mapping[str, Callable[[Sequence[Answer]], Iterator[str]]] = {one.__name__: one for one in _ALL}
