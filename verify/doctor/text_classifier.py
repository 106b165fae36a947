"""A classifier that guesses the cause of a short text from its words, when no line matches a signature.

People describe a failure without quoting a program: "only one core is used while flash attention builds". The
classifier compares such words with those of each cause: of its definition, its samples and its messages. Samples that only look
like a cause, and lines that follow from any cause, form a class of their own. A text without a complaint is not classified. The confidence of a guess is low. `verify.pyz` does not contain this module.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from verify.doctor.catalog import load_causes
from verify.tables import table

HEALTHY = ""
"""The class of texts without a cause. A word that occurs there once counts as usual."""
MIN_SCORE = 5.0
"""About two rare words."""
MIN_LEAD = 0.6
"""Minimum distance to the score of the next cause."""
MIN_SHARE = 0.25
"""Minimum share of the highest score that the words could reach."""
HEALTHY_WEIGHT = 0.6
"""Weight of a word of the healthy class relative to a word of a cause: whoever complains mostly has a reason."""
LOWEST, HIGHEST = 0.3, 0.45
"""Confidence of a guess with the minimum lead, and of one with a lead of at least `CLEAR_LEAD`."""
CLEAR_LEAD = 8.0
COMMON_SHARE = 0.25
"""A word that more than this share of the causes have is ignored."""
USUAL_SHARE = 0.25
"""A word that this share of a cause's texts have gets the full weight."""
LINES_SHOWN, WORDS_SHOWN = 3, 6
MIN_STEM = 3

_TOKEN = re.compile(r"[a-z][a-z0-9_]+")
_IDENTIFIER = re.compile(r"[a-f0-9]{6,}")
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")
_COMPLAINT = re.compile(
    r"(?i)error|exception|n't\b|\?|\b(?:fail|fatal|cannot|can ?not|unable|without|missing|lack|invalid|unsupported"
    r"|incompatib|mismatch|conflict|wrong|corrupt|br[eo]ak|hang|hung|stuck|freez|deadlock|crash|kill|slow|denied|refus"
    r"|reject|issue|bug|problem|trouble|time[sd]? ?-?out|timeout|fall|instead|ignor|disabled|unavailable|exceed|expired"
    r"|abort|regress|warn|support|undefined|segfault|sigsegv|sigill|signal \d|stop|still|does |vanish"
    r"|disappear|replac|remov|zombie|uninit)|\b(?:not|no|none|bad|old|too|only|less|full|lost|dead|dies|died|when|why"
    r"|how|which|wants?|must|another|newer|older|yet)\b"
)


@dataclass(frozen=True)
class Guess:
    """A cause suggested by words, and the lines that hold most of them."""

    cause: str
    confidence: float
    words: tuple[str, ...]
    """The words with the highest scores first."""
    lines: tuple[int, ...]
    """Numbers from 0, in order."""


@dataclass(frozen=True)
class TextClassifier:
    """The causes that each word suggests, with weights in tenths; a word without causes is too common."""

    causes: tuple[str, ...]
    weights: Mapping[str, Mapping[int, int]]

    @classmethod
    def learn(cls, texts: Mapping[str, Sequence[str]]) -> TextClassifier:
        """Learn the words of each cause from texts about it."""
        causes = tuple(sorted(texts))
        counts = [Counter(word for text in texts[cause] for word in stems(text)) for cause in causes]
        spread = Counter(word for count in counts for word in count)
        weights: dict[str, dict[int, int]] = {}
        for number, (cause, count) in enumerate(zip(causes, counts, strict=True)):
            usual = max(1.0, USUAL_SHARE * len(texts[cause])) if cause != HEALTHY else 1.0
            for word, frequency in count.items():
                of_word = weights.setdefault(word, {})
                if spread[word] <= COMMON_SHARE * len(causes):
                    of_word[number] = round(5 + 5 * min(1.0, frequency / usual))
        return cls(causes, weights)

    def guess(self, lines: Sequence[str]) -> Guess | None:
        """Return the cause that the lines of a text are about; None if their words do not decide."""
        if not any(map(_COMPLAINT.search, lines)):
            return None
        found = {word for line in lines for word in stems(line)}
        scores = [0.0] * len(self.causes)
        for word in found:
            for number in self.weights.get(word, ()):
                scores[number] += self._score(word, number) * (1 if self.causes[number] else HEALTHY_WEIGHT)
        (best, score), (_, second) = sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))[:2]
        lead, possible = score - second, sum(self._rarity(word) for word in found)
        decided = score >= max(MIN_SCORE, MIN_SHARE * possible) and lead >= MIN_LEAD
        if not decided or self.causes[best] == HEALTHY:
            return None
        ordered = sorted(found, key=lambda word: (-self._score(word, best), word))
        words = tuple(word for word in ordered[:WORDS_SHOWN] if self._score(word, best))
        confidence = LOWEST + (HIGHEST - LOWEST) * min(1.0, lead / CLEAR_LEAD)
        shares = [sum(self._score(word, best) for word in stems(line)) for line in lines]
        shown = sorted(range(len(lines)), key=lambda number: -shares[number])[:LINES_SHOWN]
        return Guess(
            self.causes[best], round(confidence, 3), words, tuple(number for number in sorted(shown) if shares[number])
        )

    def _score(self, word: str, number: int) -> float:
        return self._rarity(word) * self.weights.get(word, {}).get(number, 0) / 10

    def _rarity(self, word: str) -> float:
        """Return how much a word can decide: more if fewer causes have it; an unknown word counts as one cause's."""
        count = len(self.weights[word]) if word in self.weights else 1
        return math.log(len(self.causes) / count) if count else 0.0


@cache
def load_classifier() -> TextClassifier:
    """Return the classifier, learned from the catalog."""
    texts: dict[str, list[str]] = {HEALTHY: []}
    for cause in load_causes():
        texts[cause.id] = [f"{cause.id.replace('-', ' ')}: {cause.definition} {cause.explanation}"]
        texts[cause.id] += [sample.text for sample in cause.samples if sample.is_cause]
        texts[cause.id] += cause.messages
        texts[HEALTHY] += [sample.text for sample in cause.samples if not sample.is_cause and not sample.expect]
    texts[HEALTHY] += [entry["sample"] for entry in table("log_consequences")["consequence"]]
    return TextClassifier.learn(texts)


def stems(text: str) -> set[str]:
    """Return the stems of a text's words and of the parts of its names, without identifiers."""
    words = set()
    for token in _TOKEN.findall(text.lower()):
        for part in {token, *token.split("_")}:
            word = part.strip("_")
            if len(word) > 1 and not _IDENTIFIER.fullmatch(word):
                ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= MIN_STEM), "")
                words.add(word.removesuffix(ending))
    return words
