"""Check of a user's model: better than guessing, and as in its last green run. A part of ready.pyz."""

from __future__ import annotations

import math
import time
from pathlib import Path

from verify.files import read_json
from verify.serving.answers import GREEDY, Answer, NotProvenError, compare_last, forced, forced_tokens, greedy
from verify.serving.client import Client, RefusedError

from .reference import LastRun
from .service import ReadinessRequest

FIXED_TEXT = (
    "The telescope saw its first light on a clear night in March. Light from the star had travelled for 8,611 years, at"
    " 299,792,458 metres a second, before it fell on a mirror of 3.6 metres and was counted, photon by photon."
)
LONG_TEXTS = tuple(
    " ".join(
        f"Plate {number} shows {number * number % 97} stars, exposed for {number % 13} minutes."
        for number in range(1, count)
    )
    for count in (40, 170)
)
"""Texts of about 700 and 3,000 tokens: several blocks of the cache, and more than is computed at once."""
LONG_ANSWER = 8
"""Number of greedy tokens after a long text."""
LONG_S = 10.0
"""Seconds for a long text after which no longer one is asked: a large model on a CPU."""
CLAMPED_LOGPROB = -9999.0
"""vLLM's replacement for minus infinity, which JSON cannot represent."""
BETTER_THAN_GUESSING = 1.0
"""Nats per token by which the fixed text must be likelier than under uniform guessing.

With meaningless weights, the mean stays below that of guessing (Jensen's inequality). A trained model is about 6 nats
above it.
"""
LEAST_EFFECT = 0.001
"""Nats by which an adapter must change the log probability of at least one token of the fixed text.

An adapter that is not applied, or whose weights are zero, changes none: the same kernels compute both.
"""
LENGTH = 32
"""Number of greedy tokens that are compared with the last green run."""


def check_model(request: ReadinessRequest, dtype: str, client: Client) -> list[str]:
    """Return evidence that a user's model computes, and as in its last green run; keep it. Raises NotProvenError."""
    tokens = forced_tokens(client, FIXED_TEXT)
    values = [value for _, value in tokens]
    evidence = [check_plausibility(values, vocabulary(Path(request.model_folder)))]
    answer = greedy(client, FIXED_TEXT, LENGTH)
    long = long_answers(client)
    asked = {"dtype": dtype, "text": [token for token, _ in tokens], "penalty": GREEDY["repetition_penalty"]}
    run = LastRun(request, "logprobs", asked)
    if last := run.answers():
        try:
            evidence += compare_last(
                client, values, answer, long, last, length=LENGTH, dtype=dtype, release=request.release
            )
        except NotProvenError as deviation:
            raise NotProvenError(f"{deviation}; if that is meant, remove {run.path}") from None
    kept = [{"prompt": text, "tokens": one.tokens, "logprobs": one.logprobs} for text, one in long.items()]
    run.keep({"prompt": FIXED_TEXT, "logprobs": values, "tokens": answer.tokens, "long": kept})
    return evidence


def check_adapter(name: str, adapter: Client, base: Client) -> str:
    """Return evidence that an adapter computes, and answers differently from its base model. Raises NotProvenError."""
    first, found, again = (forced(each, FIXED_TEXT) for each in (base, adapter, base))
    if not all(math.isfinite(value) and value > CLAMPED_LOGPROB for value in found):
        raise NotProvenError(f"adapter `{name}`: log probabilities of a fixed text are not finite")
    noise, effect = (max(abs(a - b) for a, b in zip(first, other, strict=True)) for other in (again, found))
    text = f"adapter `{name}` changes log probabilities of a fixed text by up to {effect:.3f}"
    if effect <= max(LEAST_EFFECT, 2 * noise):
        raise NotProvenError(
            f"{text}: it answers as the model does without it, whose own answers differ by up to {noise:.3f}; "
            "it is not applied, or its weights are zero"
        )
    return text


def long_answers(client: Client) -> dict[str, Answer]:
    """Return the greedy answers to the long texts, as far as the model has positions for them."""
    found = {}
    for text in LONG_TEXTS:
        began = time.monotonic()
        try:
            found[text] = greedy(client, text, LONG_ANSWER)
        except RefusedError:
            break
        if time.monotonic() - began > LONG_S:
            break
    return found


def check_plausibility(values: list[float], entries: int | None) -> str:
    """Return evidence that a working model has these log probabilities; config.json may name no `entries`."""
    wrong = [value for value in values if not math.isfinite(value) or value <= CLAMPED_LOGPROB]
    if wrong or not values:
        raise NotProvenError(f"{len(wrong)} of {len(values)} log probabilities of a fixed text are not finite")
    mean = sum(values) / len(values)
    text = f"log probabilities of {len(values)} tokens of a fixed text are finite, mean {mean:.3f}"
    if entries is None:
        return f"{text}; config.json names no vocabulary to compare with guessing"
    guessing = -math.log(entries)
    if mean < guessing + BETTER_THAN_GUESSING:
        raise NotProvenError(
            f"the model says no more of a fixed text than guessing: mean log probability {mean:.3f}, guessing among {entries} tokens"
            f" {guessing:.3f}; its weights are not what they should be, or they are read wrongly"
        )
    return f"{text}; guessing among {entries} tokens: {guessing:.3f}"


def vocabulary(folder: Path) -> int | None:
    """Return the size of the vocabulary in a model's config.json or in its part for text."""
    config = read_json(folder / "config.json")
    found = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return found if isinstance(found, int) and found > 1 else None
