"""Whether two releases answer alike: greedy answers to the same texts, compared token by token. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.features.rollout.gate import thresholds


@dataclass
class Comparison:
    """How many answers were compared, and how many of them differ."""

    answers: int = 0
    near_ties: int = 0
    """They differ, and only after two tokens that rounding can exchange."""
    differing: int = 0
    first: str | None = None
    """The first difference beyond rounding, in words."""
    left_out: int = 0
    """Texts that were not compared, since one of the two releases has not answered them."""
    why: str | None = None
    """Of the first of these: the reason."""

    def add(self, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Compare the answers of two hosts that serve the same model.

        Up to the first token that differs both computed the same, so their log probabilities may differ by rounding alone. After
        it they continue different texts, and nothing more can be said.

        Args:
            new: What `ready.pyz` sends of the new release. `answers` have `tokens`, `logprobs`, and for each the token in second
                place (`runners_up`) with its distance in nats (`leads`); None stands for an answer that failed. `left_out` has why, by
                the number of the text.
            old: That of the old release to the same texts.
        """
        for number, (ours, theirs) in enumerate(zip(new["answers"], old["answers"], strict=False), start=1):
            if ours is not None and theirs is not None:
                self.answers += 1
                self._add(f"text {number}", ours, theirs)
                continue
            self.left_out += 1
            reason = (new if ours is None else old)["left_out"][str(number)]
            # Both refuse a text that is too long for the model; a reason of one release alone may be a fault of it.
            of = "" if ours is theirs else f" with the {'new' if ours is None else 'old'} release"
            self.why = self.why or f"text {number}{of}: {reason}"

    def _add(self, text: str, new: Mapping[str, Any], old: Mapping[str, Any]) -> None:
        """Count how two answers to one text differ."""
        rounding = thresholds()["answers"]["rounding"]
        for place, (token, before) in enumerate(zip(new["tokens"], old["tokens"], strict=False)):
            moved = abs(new["logprobs"][place] - old["logprobs"][place])
            if token == before and moved <= rounding:
                continue
            if token == before:
                what = f"has another log probability by {moved:.2f} nats"
            elif token != old["runners_up"][place] or old["leads"][place] > rounding:
                what = f"is {token} instead of {before}, which led by {old['leads'][place]:.2f} nats"
            else:
                self.near_ties += 1
                return
            self.differing += 1
            self.first = self.first or f"{text}, token {place + 1} {what}"
            return

    @property
    def is_bad(self) -> bool:
        """Return whether so many differ that the release has to go back."""
        limits = thresholds()["answers"]
        return bool(self.answers >= limits["least"] and self.differing >= limits["roll_back"] * self.answers)

    @property
    def text(self) -> str | None:
        """Return what was found; None where nothing was to be compared."""
        if not self.left_out:
            return self._compared
        were = "was" if self.left_out == 1 else "were"
        left_out = f"{self.left_out} of {self.answers + self.left_out} texts {were} left out: {self.why}"
        return f"{self._compared or 'no greedy answers were compared'}; {left_out}"

    @property
    def _compared(self) -> str | None:
        if not self.answers:
            return None
        if not self.differing:
            ties = f", {self.near_ties} after a near tie" if self.near_ties else ""
            return (
                f"{self.answers - self.near_ties} of {self.answers} greedy answers equal those of the old release{ties}"
            )
        return f"{self.differing} of {self.answers} greedy answers differ from those of the old release: {self.first}"
