"""Check of a user's model: better than guessing, and as in its last green run. A part of ready.pyz."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from .answer import ROUNDING, NotProvenError, RefusedError, Server
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
SAME, OTHER = "this release", "another build or other settings"
ALLOWED = {SAME: 0.02, OTHER: 0.1}
"""Largest mean difference of log probabilities to the last green run, in nats, by what that run served with.

The same release computes the same values; another build rounds in another order.
"""


def check_model(request: ReadinessRequest, dtype: str, server: Server) -> list[str]:
    """Return evidence that a user's model computes, and as in its last green run; store the new values.

    Raises:
        NotProvenError: It does not.
    """
    forced = server.forced(FIXED_TEXT)
    values = [value for _, value in forced]
    evidence = [check_plausibility(values, vocabulary(Path(request.model_folder)))]
    tokens, logprobs, _ = server.greedy(FIXED_TEXT, LENGTH)
    key = {"model": fingerprint(Path(request.model_folder)), "dtype": dtype, "text": [token for token, _ in forced]}
    long = long_answers(server)
    path = Path(request.prefix) / "verify" / f"logprobs-{Path(request.model_folder).name}.json"
    try:
        last = json.loads(path.read_text())
    except (OSError, ValueError):
        last = {}
    if last and all(last.get(name) == value for name, value in key.items()):
        whose = SAME if last["release"] == request.release else OTHER
        try:
            evidence.append(compare_log_probabilities(values, last, whose))
            evidence.append(compare_tokens((tokens, logprobs), last, dtype, whose, server))
            # Earlier releases of this product kept no long texts.
            evidence += [compare_long(*pair, dtype, whose) for pair in zip(long, last.get("long", ()), strict=False)]
        except NotProvenError as deviation:
            raise NotProvenError(f"{deviation}; if that is meant, remove {path}") from None
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    kept = {**key, "release": request.release, "at": at, "prompt": FIXED_TEXT, "logprobs": values, "tokens": tokens}
    kept["long"] = long
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(kept) + "\n")
    temporary.replace(path)
    return evidence


def check_adapter(name: str, adapter: Server, base: Server) -> str:
    """Return evidence that an adapter computes, and answers differently from its base model.

    Args:
        name: The adapter's name in the API.
        adapter: The server, asked for the adapter.
        base: The server, asked for the model itself.

    Raises:
        NotProvenError: It does not.
    """
    first, found, again = ([value for _, value in each.forced(FIXED_TEXT)] for each in (base, adapter, base))
    if not all(math.isfinite(value) and value > CLAMPED_LOGPROB for value in found):
        raise NotProvenError(f"adapter `{name}`: log probabilities of a fixed text are not finite")
    noise = max(abs(one - two) for one, two in zip(first, again, strict=True))
    effect = max(abs(one - two) for one, two in zip(first, found, strict=True))
    text = f"adapter `{name}` changes log probabilities of a fixed text by up to {effect:.3f}"
    if effect <= max(LEAST_EFFECT, 2 * noise):
        raise NotProvenError(
            f"{text}: it answers as the model does without it, whose own answers differ by up to {noise:.3f}; "
            "it is not applied, or its weights are zero"
        )
    return text


def long_answers(server: Server) -> list[dict[str, Any]]:
    """Return the greedy answers to the long texts, as far as the model has positions for them."""
    found = []
    for text in LONG_TEXTS:
        began = time.monotonic()
        try:
            tokens, logprobs, _ = server.greedy(text, LONG_ANSWER)
        except RefusedError:
            break
        found.append({"prompt": text, "tokens": tokens, "logprobs": logprobs})
        if time.monotonic() - began > LONG_S:
            break
    return found


def compare_long(now: dict[str, Any], last: dict[str, Any], dtype: str, whose: str) -> str:
    """Return evidence that the answer to a long text is that of the last green run, up to a near tie of two tokens."""
    text = f"after a text of {len(now['prompt'])} characters"
    if now["prompt"] != last["prompt"] or len(now["tokens"]) != len(last["tokens"]):
        return f"{text}, the last green run had another prompt"
    same = [here == there for here, there in zip(now["tokens"], last["tokens"], strict=True)]
    place = same.index(False) if False in same else len(same)
    off = [abs(here - there) for here, there in zip(now["logprobs"], last["logprobs"], strict=True)][: place + 1]
    drift = sum(off) / len(off)
    tie = ROUNDING.get(dtype, ROUNDING["float32"]) if place < len(same) else 0.0
    text = f"log probabilities {text} differ from the last green run by {drift:.4f} on average over {len(off)} tokens"
    if not drift <= max(ALLOWED[whose], tie):
        raise NotProvenError(f"{text}; allowed {max(ALLOWED[whose], tie)}")
    return text


def check_plausibility(values: list[float], entries: int | None) -> str:
    """Return evidence that log probabilities come from a working model.

    Args:
        entries: Size of the vocabulary; None where config.json names none.
    """
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


def compare_log_probabilities(values: list[float], last: dict[str, Any], whose: str) -> str:
    """Return evidence that the fixed text is as likely as in the last green run."""
    off = [abs(here - there) for here, there in zip(values, last["logprobs"], strict=True)]
    drift, worst = sum(off) / len(off), max(range(len(off)), key=off.__getitem__)
    text = (
        f"log probabilities of a fixed text differ from the last green run ({last['at']}, {whose}) by {drift:.4f} on average,"
        f" by up to {off[worst]:.4f} (token {worst + 2}: {last['logprobs'][worst]:.3f} then, {values[worst]:.3f} now)"
    )
    if drift > ALLOWED[whose]:
        raise NotProvenError(f"{text}; allowed {ALLOWED[whose]} on average")
    return text


def compare_tokens(
    answered: tuple[list[int], list[float]],
    last: dict[str, Any],
    dtype: str,
    whose: str,
    server: Server,
) -> str:
    """Return evidence that the text continues as in the last green run; two builds may break a near tie differently."""
    (tokens, logprobs), before = answered, last["tokens"]
    if tokens == before:
        return f"{len(tokens)} greedy tokens equal those of the last green run"
    if len(tokens) != len(before):
        raise NotProvenError(f"the server answered {len(tokens)} tokens, {len(before)} in the last green run")
    place = next(number for number, pair in enumerate(zip(tokens, before, strict=True)) if pair[0] != pair[1])
    text = f"greedy token {place + 1} of {len(before)} is {tokens[place]}, {before[place]} in the last green run ({last['at']}, {whose})"
    forced = server.forced(server.tokens_of(FIXED_TEXT) + before[: place + 1])
    lead = logprobs[place] - forced[-1][1]
    rounding = ROUNDING.get(dtype, ROUNDING["float32"])
    if lead > rounding:
        raise NotProvenError(f"{text}, which is now {lead:.2f} nats less likely; {dtype} rounds by at most {rounding}")
    return f"{text}: a near tie, {lead:.3f} nats apart"


def vocabulary(folder: Path) -> int | None:
    """Return the size of the vocabulary in a model's config.json or in its part for text."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return None
    found = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    return found if isinstance(found, int) and found > 1 else None


def fingerprint(folder: Path) -> list[list[Any]]:
    """Return names and sizes of a model's files, so that another model under the same name is not compared."""
    return sorted([path.name, path.stat().st_size] for path in folder.iterdir() if path.is_file())
