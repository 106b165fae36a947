"""A guess from the words of a short text in which no line is known.

What people write of a failure rarely holds a program's own line: "only one core is used while flash attention builds".
Its words are compared with those of each cause: of its definition, its samples, and of what programs and people are
known to say of it (messages.toml). What healthy programs say (healthy.toml), and what follows from any cause, is weighed
like a cause of its own, and a text that complains of nothing is not guessed at. A guess is never more than possible.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from verify.doctor.score import GUESS_BYTES

HEALTHY = ""
"""Stands among the causes for what tells of none. A word that is said there once is said whenever all is well."""
LEAST_SCORE = 5.0
"""About two rare words."""
LEAST_LEAD = 0.6
"""Before the next cause."""
LEAST_SHARE = 0.25
"""Of what all words of the text could tell."""
WELL = 0.6
"""What a word of healthy programs weighs beside a word of a cause: who complains mostly has a reason."""
LOWEST, HIGHEST = 0.3, 0.45
"""Confidence of a guess with the least lead, and of one whose lead is `CLEAR_LEAD` or more."""
CLEAR_LEAD = 8.0
COMMON_SHARE = 0.25
"""A word of more than this share of the causes tells nothing."""
USUAL = 0.25
"""A word in this share of a cause's texts is one of its own."""
LINES = 3
TOLD = 6
"""Words that a guess names."""

_TOKEN = re.compile(r"[a-z][a-z0-9_]+")
_IDENTIFIER = re.compile(r"[a-f0-9]{6,}")
_ENDINGS = ("ations", "ation", "ings", "ing", "ies", "ied", "ed", "es", "s", "e", "y")
LEAST_STEM = 3
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
    """A cause by its words, and the lines that hold most of them."""

    cause: str
    confidence: float
    words: tuple[str, ...]
    """The most telling first."""
    lines: tuple[int, ...]
    """From 0, in order."""


@dataclass(frozen=True)
class Words:
    """Which causes each word speaks for, in tenths; a word without causes is too common to tell."""

    causes: tuple[str, ...]
    shares: Mapping[str, Mapping[int, int]]
    highest: ClassVar[float] = HIGHEST

    @classmethod
    def learn(cls, texts: Mapping[str, Sequence[str]]) -> Words:
        """From what is said of each cause."""
        causes = tuple(sorted(texts))
        counts = [Counter(word for text in texts[cause] for word in stems(text)) for cause in causes]
        spread = Counter(word for count in counts for word in count)
        shares: dict[str, dict[int, int]] = {}
        for place, (cause, count) in enumerate(zip(causes, counts, strict=True)):
            usual = max(1.0, USUAL * len(texts[cause])) if cause != HEALTHY else 1.0
            for word, often in count.items():
                of_word = shares.setdefault(word, {})
                if spread[word] <= COMMON_SHARE * len(causes):
                    of_word[place] = round(5 + 5 * min(1.0, often / usual))
        return cls(causes, shares)

    def guess(self, text: str) -> Guess | None:
        """The cause that a text is about; null where its words leave it open."""
        if len(text) > GUESS_BYTES or not _COMPLAINT.search(text):
            return None
        found = stems(text)
        scores = self._scores(found)
        (best, score), (_, second) = sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))[:2]
        lead, whole = score - second, sum(self._weight(word) for word in found)
        enough = score >= max(LEAST_SCORE, LEAST_SHARE * whole) and lead >= LEAST_LEAD
        if not enough or self.causes[best] == HEALTHY:
            return None
        telling = sorted(found, key=lambda word: (-self._score(word, best), word))
        words = tuple(word for word in telling[:TOLD] if self._score(word, best))
        confidence = LOWEST + (HIGHEST - LOWEST) * min(1.0, lead / CLEAR_LEAD)
        return Guess(self.causes[best], round(confidence, 3), words, self._lines(text, best))

    def _scores(self, found: Iterable[str]) -> list[float]:
        scores = [0.0] * len(self.causes)
        for word in found:
            for place in self.shares.get(word, ()):
                scores[place] += self._score(word, place) * (1 if self.causes[place] else WELL)
        return scores

    def _score(self, word: str, place: int) -> float:
        return self._weight(word) * self.shares.get(word, {}).get(place, 0) / 10

    def _weight(self, word: str) -> float:
        """How much a word can tell: the fewer causes have it, the more; one that none has could have told most."""
        return self._weights[len(self.shares[word])] if word in self.shares else self._weights[1]

    @cached_property
    def _weights(self) -> list[float]:
        return [0.0, *(math.log(len(self.causes) / count) for count in range(1, len(self.causes) + 1))]

    def _lines(self, text: str, place: int) -> tuple[int, ...]:
        told = [sum(self._score(word, place) for word in stems(line)) for line in text.split("\n")]
        best = sorted(range(len(told)), key=lambda number: (-told[number], number))[:LINES]
        return tuple(sorted(number for number in best if told[number]))


def stems(text: str) -> set[str]:
    """The words of a text without endings, those inside of names as well; no identifiers."""
    words = set()
    for token in _TOKEN.findall(text.lower()):
        for part in {token, *token.split("_")}:
            word = part.strip("_")
            if len(word) > 1 and not _IDENTIFIER.fullmatch(word):
                words.add(_stem(word))
    return words


def _stem(word: str) -> str:
    ending = next((end for end in _ENDINGS if word.endswith(end) and len(word) - len(end) >= LEAST_STEM), "")
    return word.removesuffix(ending)
