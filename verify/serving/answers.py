"""A service's answers compared with a reference, with the last green run, and with the model itself."""

import math
import random
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import fmean
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


SAME, OTHER = "this release", "another build or other settings"
"""What the last green run served with: the same release computes the same values, another build rounds in another order."""


class NotProvenError(Exception):
    """What the service answers does not show that it computes correctly; the message is the reason."""


GREEDY = {
    "temperature": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "ignore_eos": True,
}
"""Parameters by which only the most likely tokens are drawn, whatever the server's defaults are.

Those of its generation_config.json and of `--override-generation-config` are in ModelConfig.get_diff_sampling_param of
vllm/config/model.py, 0.32.0; at temperature 0 the others change nothing.
"""


@dataclass(frozen=True)
class Answer:
    """Greedy continuation of a prompt."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    first_at: float = 0.0
    """Monotonic time of the first token; 0 without one."""


def greedy(client: Client, prompt: Sequence[int] | str, length: int) -> Answer:
    """Request a greedy continuation token by token, so that a stalled server is detected. Raises RequestError.

    `logprobs` is the form for token ids that every release since 0.6 supports.
    """
    body = {"prompt": prompt, "max_tokens": length, **GREEDY, "logprobs": 1, "return_tokens_as_token_ids": True}
    tokens: list[int] = []
    logprobs: list[float] = []
    first_at = 0.0
    for event in client.stream("/v1/completions", body):
        for choice in event.get("choices", ()):
            found = choice.get("logprobs") or {}
            tokens += [int(token.removeprefix("token_id:")) for token in found.get("tokens", ())]
            logprobs += found.get("token_logprobs", ())
            first_at = first_at or time.monotonic()
    return Answer(tuple(tokens), tuple(logprobs), first_at)


def positions(client: Client) -> int:
    """Return how many tokens a prompt and its answer may have. Raises RequestError."""
    return int(client.get("/v1/models")["data"][0]["max_model_len"])


def forced(client: Client, prompt: Sequence[int] | str) -> list[float]:
    """Return the log probability of each token of a prompt except the first. Raises RequestError."""
    return [value for _, value in forced_tokens(client, prompt)]


def forced_tokens(client: Client, prompt: Sequence[int] | str) -> list[tuple[int, float]]:
    """Return each token of a prompt except the first, with its log probability. Raises RequestError."""
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
    entries = client.post("/v1/completions", body)["choices"][0]["prompt_logprobs"][1:]
    # The prompt's own token comes first; some releases append the most likely one.
    return [(int(token), float(value["logprob"])) for token, value in (next(iter(entry.items())) for entry in entries)]


def dtype_of(notes: Sequence[Mapping[str, Any]]) -> str:
    """Return the number type of the attention layers, from the notes of the engine's processes."""
    return next((str(layer.get("dtype")) for note in notes for layer in note.get("layers", ())), "float32")


def rounding(dtype: str) -> float:
    """Return the largest change of a log probability by a number type's rounding, in nats."""
    return by_type(table("serving")["answer"]["rounding"], dtype)


def by_type(limits: Mapping[str, float], dtype: str) -> float:
    """Return the limit for a number type; types without one have that of float32."""
    return limits.get(dtype, limits["float32"])


def compare_reference(answer: Answer, reference: Mapping[str, Any], client: Client, *, length: int, dtype: str) -> str:
    """Return evidence that an answer of `length` tokens is the beginning of the reference's.

    Another token than the reference's is a near tie if the log probabilities of the reference's tokens are right, for which `client` asks.
    Raises NotProvenError where it is not, and RequestError.
    """
    expected, logprobs, bound = reference["tokens"][:length], reference["logprobs"][:length], rounding(dtype)
    rounds = f"{dtype} rounds by at most {bound}"
    if len(answer.tokens) != len(expected):
        raise NotProvenError(f"the server answered {len(answer.tokens)} tokens instead of {len(expected)}")
    place = _first_difference(answer.tokens, expected)
    if place is None:
        worst = max(_differences(answer.logprobs, logprobs))
        text = f"{len(expected)} greedy tokens equal those of transformers in float32"
        # A log probability depends on two logits: its own and the largest one.
        if worst > 2 * bound:
            raise NotProvenError(f"{text}, but log probabilities differ by up to {worst:.2f}; {rounds}")
        return f"{text}; log probabilities differ by at most {worst:.3f}"
    gap = reference["gaps"][place]
    token, runner_up = answer.tokens[place], reference["runners_up"][place]
    text = f"token {place + 1} of {len(expected)} is {token}, transformers in float32 says {expected[place]}"
    if gap >= bound:
        raise NotProvenError(f"{text}, whose logit leads by {gap:.2f}; {rounds}")
    if token != runner_up:
        raise NotProvenError(f"{text}, and after that {runner_up}")
    found = forced(client, [*reference["prompt"], *expected])[-len(expected) :]
    worst = max(_differences(found, logprobs))
    if worst > bound:
        raise NotProvenError(f"{text}, and log probabilities differ by up to {worst:.2f}; {rounds}")
    return f"{text}: a near tie (gap {gap:.3f}); teacher-forced log probabilities differ by at most {worst:.3f}"


def _first_difference(found: Sequence[int], expected: Sequence[int]) -> int | None:
    """Return the first place in which two lists differ, as far as both reach."""
    return next((place for place, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]), None)


def _differences(found: Sequence[float], expected: Sequence[float]) -> list[float]:
    """Return the differences of two lists of one length; a value that is no number differs by infinity."""
    differences = (abs(here - there) for here, there in zip(found, expected, strict=True))
    return [math.inf if math.isnan(difference) else difference for difference in differences]


def check_model(answer: Answer, exact: Sequence[Sequence[float]], dtype: str) -> None:
    """Compare an answer with the model; `exact` are the model's log probabilities after each of its tokens, in float64.

    Raises NotProvenError where they differ by more than rounding.
    """
    bound = rounding(dtype)
    rounds = f"{dtype} rounds by at most {bound}"
    if not answer.tokens:
        raise NotProvenError("no token was returned")
    for place, (token, logprob, row) in enumerate(zip(answer.tokens, answer.logprobs, exact, strict=True), 1):
        lead = max(row) - row[token]
        if lead > 2 * bound:
            text = f"token {place} of {len(exact)} is {token}, and {row.index(max(row))} leads by {lead:.2f}"
            raise NotProvenError(f"{text}; {rounds}")
        if not abs(logprob - row[token]) <= 2 * bound:
            text = f"token {place} has log probability {logprob:.3f}, the model has {row[token]:.3f}"
            raise NotProvenError(f"{text}; {rounds}")


def check_text(values: Sequence[float], exact: Sequence[float], dtype: str) -> None:
    """Compare the log probabilities that an engine gives the tokens of a text with the model's in float64.

    Tokens that nobody chose differ far more between two models than the most likely ones, of which one may win in both: with one of four
    layers of the built-in model set to zero, 27 random tokens differed by 1.0 to 2.4 at most, and four greedy ones were within the
    bound in every fifth run. Raises NotProvenError where they differ by more than rounding.
    """
    bound = rounding(dtype)
    if len(values) != len(exact):
        raise NotProvenError(f"{len(values)} log probabilities came for a prompt of {len(exact) + 1} tokens")
    for place, (value, expected) in enumerate(zip(values, exact, strict=True), 2):
        if not abs(value - expected) <= 2 * bound:
            text = f"token {place} of a prompt has log probability {value:.3f}, the model has {expected:.3f}"
            raise NotProvenError(f"{text}; {dtype} rounds by at most {bound}")


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


def check_prompt(fitted: Fit, length: int, dtype: str) -> None:
    """Compare the log probabilities of a long prompt's tokens with the model's. Raises NotProvenError."""
    limits = table("serving")["answer"]
    bound, allowed = by_type(limits["spread"], dtype), limits["scale"]["allowed"]
    if not fitted.off <= bound:
        text = f"log probabilities of a prompt of {length} tokens differ by {fitted.off:.3g} (root mean square)"
        raise NotProvenError(f"{text}; {dtype} rounds by at most {bound}")
    if not abs(fitted.scale) <= allowed:
        text = f"a prompt of {length} tokens is answered as by a model whose attention scale is {fitted.scale:+.1%} off"
        raise NotProvenError(f"{text}; allowed {allowed:.0%}")


def shared_prompts(client: Client, shared: int, ends: int) -> list[list[int]]:
    """Return prompts with `shared` common tokens and `ends` others each, the first one twice. Raises RequestError.

    No earlier request had this beginning.
    """

    def tokens(sentence: str, length: int, *, is_first: bool) -> list[int]:
        numbers = (random.randrange(1000) for _ in range(length))  # noqa: S311 - no secret
        text = " ".join(sentence.format(number) for number in numbers)
        body = {"prompt": text, "add_special_tokens": is_first}
        return [int(token) for token in client.post("/tokenize", body)["tokens"]][:length]

    first, *others = SENTENCES
    beginning = tokens(first, shared, is_first=True)
    prompts = [beginning + tokens(sentence, ends, is_first=False) for sentence in others]
    return [*prompts, prompts[0]]


def check_mixed(client: Client, allowed: float) -> None:
    """Ask prompts with a common beginning at once, and compare each answer with the same text alone.

    The log probabilities of an answer must be those of the same text in a prompt: vLLM computes those anew, without its cache of prefixes.
    A service with too few positions is not asked.

    Args:
        client: Client of the service.
        allowed: Allowed average difference over an answer, in nats.

    Raises NotProvenError where one differs, and RequestError.
    """
    limits = table("serving")["answer"]
    if limits["shared"] + limits["ends"] + limits["tokens"] >= positions(client):
        return
    prompts = shared_prompts(client, limits["shared"], limits["ends"])
    answers = [greedy(client, prompts[0], limits["tokens"])]  # fills the cache
    with ThreadPoolExecutor(len(prompts)) as pool:
        answers += pool.map(lambda prompt: greedy(client, prompt, limits["tokens"]), prompts[1:])
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), 1):
        where = f"prompt {number} of {len(prompts)} with a shared prefix, sent at once"
        if not answer.tokens:
            raise NotProvenError(f"{where}: no token was returned")
        alone = forced(client, [*prompt, *answer.tokens])[-len(answer.tokens) :]
        off = fmean(_differences(answer.logprobs, alone))
        if off > allowed:
            raise NotProvenError(
                f"{where}: log probabilities of its answer differ by {off:.2f} on average from those of the same text alone;"
                f" allowed {allowed}"
            )


def of_last(last: Mapping[str, Any], release: str, bounds: Mapping[str, float]) -> tuple[str, float]:
    """Return what the last green run served with, and the bound for the difference from it."""
    return (SAME, bounds["same"]) if last["release"] == release else (OTHER, bounds["other"])


def compare_text(values: Sequence[float], last: Mapping[str, Any], release: str) -> str:
    """Return evidence that a fixed text is as likely as in the last green run. Raises NotProvenError."""
    if len(values) != len(last["logprobs"]):
        before = f"{len(last['logprobs']) + 1} in the last green run ({last['at']})"
        raise NotProvenError(f"a fixed text has {len(values) + 1} tokens, {before}")
    whose, allowed = of_last(last, release, table("serving")["answer"]["text"])
    off = _differences(values, last["logprobs"])
    drift, worst = fmean(off), off.index(max(off))
    text = (
        f"log probabilities of a fixed text differ from the last green run ({last['at']}, {whose}) by {drift:.4f} on average,"
        f" by up to {off[worst]:.4f} (token {worst + 2}: {last['logprobs'][worst]:.3f} then, {values[worst]:.3f} now)"
    )
    if drift > allowed:
        raise NotProvenError(f"{text}; allowed {allowed} on average")
    return text


def compare_tokens(
    answer: Answer, last: Mapping[str, Any], client: Client, *, length: int, dtype: str, release: str
) -> str:
    """Return evidence that the fixed text continues as in the last green run; two builds may break a near tie differently.

    `length` tokens were asked for; `client` asks how likely the earlier token is now.
    Raises NotProvenError where it continues otherwise, and RequestError.
    """
    before = last["tokens"][:length]
    if len(answer.tokens) != len(before):
        raise NotProvenError(f"the server answered {len(answer.tokens)} tokens, {len(before)} in the last green run")
    place = _first_difference(answer.tokens, before)
    if place is None:
        return f"{len(before)} greedy tokens equal those of the last green run"
    whose, bound = of_last(last, release, table("serving")["answer"]["text"])[0], rounding(dtype)
    text = f"greedy token {place + 1} of {len(before)} is {answer.tokens[place]}, {before[place]} in the last green run ({last['at']}, {whose})"
    prompt = client.post("/tokenize", {"prompt": last["prompt"]})["tokens"]
    lead = answer.logprobs[place] - forced(client, [*prompt, *before[: place + 1]])[-1]
    if lead > bound:
        raise NotProvenError(f"{text}, which is now {lead:.2f} nats less likely; {dtype} rounds by at most {bound}")
    return f"{text}: a near tie, {lead:.3f} nats apart"


def compare_long(answer: Answer, last: Mapping[str, Any], allowed: float, dtype: str) -> str:
    """Return evidence that the answer to a long text is that of the last green run, up to a near tie. Raises NotProvenError."""
    place = _first_difference(answer.tokens, last["tokens"])
    off = _differences(answer.logprobs, last["logprobs"])[: None if place is None else place + 1]
    bound = allowed if place is None else max(allowed, rounding(dtype))
    text = (
        f"log probabilities after a text of {len(last['prompt'])} characters differ from the last green run"
        f" by {fmean(off):.4f} on average over {len(off)} tokens"
    )
    if fmean(off) > bound:
        raise NotProvenError(f"{text}; allowed {bound}")
    return text


def compare_last(
    client: Client,
    values: Sequence[float],
    answer: Answer,
    long: Mapping[str, Answer],
    last: Mapping[str, Any],
    *,
    length: int,
    dtype: str,
    release: str,
) -> list[str]:
    """Return evidence that a user's model answers as in its last green run.

    `values` are the log probabilities of the fixed text, `answer` continues it by `length` tokens; `long` has the answers to longer
    texts, of which those that the last green run kept are compared. Raises NotProvenError where it answers otherwise, and RequestError.
    """
    evidence = [
        compare_text(values, last, release),
        compare_tokens(answer, last, client, length=length, dtype=dtype, release=release),
    ]
    allowed = of_last(last, release, table("serving")["answer"]["text"])[1]
    before = {one["prompt"]: one for one in last.get("long", ())}
    pairs = [(one, before[text]) for text, one in long.items() if text in before]
    return evidence + [compare_long(one, kept, allowed, dtype) for one, kept in pairs]
