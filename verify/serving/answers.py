"""A service's answers compared with a reference, with the last green run, and with the model itself."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from verify.serving.client import Client
from verify.tables import table

SENTENCES = (
    "Plate {} was numbered before it was exposed.",
    "Boil {} eggs in salted water.",
    "The ship sailed with {} passengers and a cargo of tea.",
    "Row {} of the garden has red roses.",
)
"""The first one begins the prompts with a common beginning, each other one ends some."""


@dataclass(frozen=True)
class Answer:
    """Greedy continuation of a prompt."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]


def greedy(client: Client, prompt: Sequence[int] | str, length: int, key: str | None) -> Answer:
    """Request a greedy continuation token by token, so that a stalled server is detected. Raises RequestError.

    `logprobs` is the form for token ids that every release since 0.6 supports.
    """
    body = {
        "prompt": prompt,
        "max_tokens": length,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 1,
        "return_tokens_as_token_ids": True,
    }
    tokens: list[int] = []
    logprobs: list[float] = []
    for event in client.stream("/v1/completions", body, key):
        for choice in event.get("choices", ()):
            found = choice.get("logprobs") or {}
            tokens += [int(token.removeprefix("token_id:")) for token in found.get("tokens", ())]
            logprobs += found.get("token_logprobs", ())
    return Answer(tuple(tokens), tuple(logprobs))


def positions(client: Client, key: str | None) -> int:
    """Return how many tokens a prompt and its answer may have. Raises RequestError."""
    return int(client.get("/v1/models", key)["data"][0]["max_model_len"])


def forced(client: Client, prompt: Sequence[int] | str, key: str | None) -> list[float]:
    """Return the log probability of each token of a prompt except the first. Raises RequestError."""
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = client.post("/v1/completions", body, key)["choices"][0]["prompt_logprobs"][1:]
    # The prompt's own token comes first; some releases append the most likely one.
    return [float(next(iter(entry.values()))["logprob"]) for entry in entries]


def dtype_of(notes: Sequence[Mapping[str, Any]]) -> str:
    """Return the number type of the attention layers, from the notes of the engine's processes."""
    return next((str(layer.get("dtype")) for note in notes for layer in note.get("layers", ())), "float32")


def rounding(dtype: str) -> float:
    """Return the largest change of a log probability by a number type's rounding, in nats."""
    table_of: Mapping[str, float] = table("serving")["answer"]["rounding"]
    return table_of.get(dtype, table_of["float32"])


def against_reference(answer: Answer, reference: Mapping[str, Any], dtype: str) -> str | None:
    """Compare the answer to the reference's prompt; return the difference, None if there is none.

    Tokens that are closer than the rounding are a tie.
    """
    length, bound = len(answer.tokens), rounding(dtype)
    if not length:
        return "no token was returned"
    for place, (token, expected) in enumerate(zip(answer.tokens, reference["tokens"][:length], strict=True)):
        if token != expected:
            is_tie = reference["gaps"][place] < 2 * bound and token == reference["runners_up"][place]
            text = f"token {place + 1} of {length} is {token}, the reference has {expected}, which leads by {reference['gaps'][place]:.2f}"
            return None if is_tie else f"{text}; {dtype} rounds by at most {bound}"
    # A log probability depends on two logits: its own and the largest one.
    pairs = zip(answer.logprobs, reference["logprobs"][:length], strict=True)
    differences = [abs(here - there) for here, there in pairs]
    # max() may lose a value that is no number.
    off = math.nan if any(map(math.isnan, differences)) else max(differences)
    return (
        None
        if off <= 2 * bound
        else f"log probabilities differ from the reference's by {off:.3g}; {dtype} rounds by at most {bound}"
    )


def against_model(answer: Answer, exact: Sequence[Sequence[float]], dtype: str) -> str | None:
    """Compare an answer with the model; `exact` are the model's log probabilities after each of its tokens, in float64."""
    bound = rounding(dtype)
    if not answer.tokens:
        return "no token was returned"
    for place, (token, logprob, row) in enumerate(zip(answer.tokens, answer.logprobs, exact, strict=True)):
        lead = max(row) - row[token]
        if lead > 2 * bound:
            return f"token {place + 1} of {len(exact)} is {token}, and {row.index(max(row))} leads by {lead:.2f}; {dtype} rounds by at most {bound}"
        if not abs(logprob - row[token]) <= 2 * bound:
            return f"token {place + 1} has log probability {logprob:.3f}, the model has {row[token]:.3f}; {dtype} rounds by at most {bound}"
    return None


def against_text(values: Sequence[float], exact: Sequence[float], dtype: str) -> str | None:
    """Compare the log probabilities that an engine gives the tokens of a text with the model's in float64.

    Tokens that nobody chose differ far more between two models than the most likely ones, of which one may win in both: with one of four
    layers of the built-in model set to zero, 27 random tokens differed by 1.0 to 2.4 at most, and four greedy ones were within the
    bound in every fifth run.
    """
    bound = 2 * rounding(dtype)
    if len(values) != len(exact):
        return f"{len(values)} log probabilities came for a prompt of {len(exact) + 1} tokens"
    for place, (value, expected) in enumerate(zip(values, exact, strict=True), 2):
        if not abs(value - expected) <= bound:
            return f"token {place} of a prompt has log probability {value:.3f}, the model has {expected:.3f}; {dtype} rounds by at most {rounding(dtype)}"
    return None


@dataclass(frozen=True)
class Fit:
    """How the log probabilities of a prompt's tokens differ from the model's."""

    off: float
    """Root of the mean square, in nats."""
    scale: float
    """Change of the attention scale that explains most of the differences, as a share."""


def fit(values: Sequence[float], exact: Sequence[float], scaled: Sequence[float] | None) -> Fit:
    """Return how an engine's log probabilities differ from the model's, and from those of a model with a larger attention scale.

    The scale of `scaled` is larger by the step of the table; None where its log probabilities are unknown.
    """
    errors = [here - there for here, there in zip(values, exact, strict=True)]
    off = math.sqrt(sum(error * error for error in errors) / len(errors))
    if scaled is None:
        return Fit(off, 0.0)
    changes = [here - there for here, there in zip(scaled, exact, strict=True)]
    share = sum(map(math.prod, zip(errors, changes, strict=True))) / sum(change * change for change in changes)
    return Fit(off, share * table("serving")["answer"]["scale"]["step"])


def against_prompt(fitted: Fit, length: int, dtype: str) -> str | None:
    """Return what is wrong with the log probabilities of a long prompt's tokens."""
    limits = table("serving")["answer"]
    bound = limits["spread"].get(dtype, limits["spread"]["float32"])
    if not fitted.off <= bound:
        return f"log probabilities of a prompt of {length} tokens differ by {fitted.off:.3g} (root mean square); {dtype} rounds by at most {bound}"
    if not abs(fitted.scale) <= limits["scale"]["allowed"]:
        return f"a prompt of {length} tokens is answered as by a model whose attention scale is {fitted.scale:+.1%} off; allowed {limits['scale']['allowed']:.0%}"
    return None


def shared_prompts(client: Client, key: str | None, shared: int, ends: int) -> list[list[int]]:
    """Return prompts with `shared` common tokens and `ends` others each, the first one twice. Raises RequestError.

    No earlier request had this beginning.
    """

    def tokens(sentence: str, length: int, *, is_first: bool) -> list[int]:
        numbers = (random.randrange(1000) for _ in range(length))  # noqa: S311 - no secret
        text = " ".join(sentence.format(number) for number in numbers)
        body = {"prompt": text, "add_special_tokens": is_first}
        return [int(token) for token in client.post("/tokenize", body, key)["tokens"]][:length]

    first, *others = SENTENCES
    beginning = tokens(first, shared, is_first=True)
    prompts = [beginning + tokens(sentence, ends, is_first=False) for sentence in others]
    return [*prompts, prompts[0]]


def mixed(client: Client, key: str | None) -> str | None:
    """Ask prompts with a common beginning at once, and return what is wrong with an answer. Raises RequestError.

    The log probabilities of an answer must be those of the same text in a prompt: vLLM computes those anew, without its cache of prefixes.
    A service with too few positions is not asked.
    """
    limits = table("serving")["answer"]
    if limits["shared"] + limits["ends"] + limits["tokens"] >= positions(client, key):
        return None
    prompts = shared_prompts(client, key, limits["shared"], limits["ends"])
    answers = [greedy(client, prompts[0], limits["tokens"], key)]  # fills the cache
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers += pool.map(lambda prompt: greedy(client, prompt, limits["tokens"], key), prompts[1:])
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        values = forced(client, [*prompt, *answer.tokens], key)[-len(answer.tokens) :]
        if wrong := against_alone(answer, values, limits["alone"]):
            return f"prompt {number} of {len(prompts)} with a shared prefix, sent at once: {wrong}"
    return None


def against_alone(answer: Answer, values: Sequence[float], allowed: float) -> str | None:
    """Compare the log probabilities of an answer with those of the same tokens in a prompt, in nats."""
    if not answer.tokens:
        return "no token was returned"
    off = sum(abs(here - there) for here, there in zip(answer.logprobs, values, strict=True)) / len(values)
    if off <= allowed:
        return None
    return f"log probabilities of its answer differ by {off:.2f} on average from those of the same text alone; allowed {allowed}"


def against_long(answer: Answer, last: Mapping[str, Any], allowed: float, dtype: str) -> str | None:
    """Compare the answer to a long text with the last verified release's, up to the first different token."""
    same = [here == there for here, there in zip(answer.tokens, last["tokens"], strict=True)]
    length = same.index(False) if False in same else len(same)
    off = [abs(here - there) for here, there in zip(answer.logprobs, last["logprobs"], strict=True)][: length + 1]
    drift = sum(off) / len(off)
    # At a near tie, two tokens are about equally likely.
    bound = allowed if length == len(same) else max(allowed, rounding(dtype))
    if drift <= bound:
        return None
    return f"log probabilities after a text of {len(last['prompt'])} characters differ from the last green run by {drift:.4f} on average; allowed {bound}"


def against_last(values: Sequence[float], last: Mapping[str, Any], release: str) -> str | None:
    """Compare log probabilities of a fixed text with those of the last green run."""
    if len(values) != len(last["logprobs"]):
        return f"a fixed text has {len(values) + 1} tokens, {len(last['logprobs']) + 1} in the last green run ({last['at']})"
    bounds = table("serving")["answer"]["text"]
    allowed = bounds["same" if last["release"] == release else "other"]
    drift = sum(abs(here - there) for here, there in zip(values, last["logprobs"], strict=True)) / len(values)
    if drift <= allowed:
        return None
    return f"log probabilities of a fixed text differ from the last green run ({last['at']}) by {drift:.4f} on average; allowed {allowed}"


def tokens_against_last(
    answer: Answer, last: Mapping[str, Any], dtype: str, rival: Callable[[Sequence[int]], float]
) -> str | None:
    """Compare the tokens after the fixed text with the last green run's.

    `rival` returns the model's log probability of the last of some tokens after the text. Two tokens that are closer than the
    rounding are a tie.
    """
    for place, (token, before) in enumerate(zip(answer.tokens, last["tokens"], strict=False)):
        if token != before:
            lead = answer.logprobs[place] - rival(last["tokens"][: place + 1])
            text = f"token {place + 1} after a fixed text is {token}, {before} in the last green run ({last['at']})"
            return None if lead <= rounding(dtype) else f"{text}, which is {lead:.2f} nats less likely now"
    return None


def tokens_done(metrics: str) -> float:
    """Return how many tokens an engine has processed in total, from the text of /metrics."""
    names = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")
    lines = (line.rpartition(" ") for line in metrics.splitlines() if line.startswith(names))
    return sum(float(value) for _, _, value in lines)
