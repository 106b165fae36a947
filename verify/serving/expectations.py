"""What must hold of the answers of a served API: the expectations that data/contract.toml names, by the names of their functions."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verify.tables import table


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


def deviations(case: Mapping[str, Any], answers: Sequence[Answer]) -> list[str]:
    """Return what the answers to a case differ in from what it expects: expected and received values, a text each."""
    return [text for name in case["expects"] for text in globals()[name](answers)]


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
    """All choices are equal until two tokens are about equally likely: only the most likely token may be drawn."""
    for answer in answers:
        found = {choice.tokens for choice in answer.choices}
        if not all(_part_at_a_tie(answer.choices[0], other) for other in answer.choices):
            yield f"expected {len(answer.choices)} equal choices, got {len(found)} different ones"


def _part_at_a_tie(one: Choice, other: Choice) -> bool:
    """Return whether two choices are equal, or each has a most likely token where they part."""
    if one.tokens == other.tokens:
        return True
    place = next((place for place, pair in enumerate(zip(one.tokens, other.tokens)) if len(set(pair)) > 1), None)
    if place is None or not all(len(choice.top) > place for choice in (one, other)):
        return False
    tie = table("contract")["tie"]
    return all(choice.logprobs[place] >= max(choice.top[place]) - tie for choice in (one, other))


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
    """The text is JSON of the schema, or where `max_tokens` cut it off the beginning of such JSON."""
    for answer in answers:
        allowed = answer.body["response_format"]["json_schema"]["schema"]["enum"]
        for choice in answer.choices:
            is_cut = choice.finish_reason == "length"
            begins = is_cut and any(json.dumps(word).startswith(choice.text.strip()) for word in allowed)
            if not begins and _json(choice.text) not in allowed:
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
