"""Whether an engine computes, from successive looks at it. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provision.phases.serve.onhost.shared.engine import UNANSWERED, Processes

UP = "up 100%"
"""The weight is that of HAProxy's configuration; agents of earlier releases lowered it."""


@dataclass(frozen=True, kw_only=True)
class Look(Processes):
    """What was seen of an engine and its processes at one time. Counts are since its start."""

    at: float
    """Seconds of a clock that never goes back."""
    progress: tuple[float, ...] | None
    """Values that only a computing engine changes; None where the server did not answer in time."""
    tokens: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    is_asked: bool = False
    """Whether a question of the agent waits for its answer."""
    answers: int = 0
    """Questions of the agent that were answered."""
    failures: int = 0
    """Answers 5xx since the last other one."""


class Evaluator:
    """What the agent knows of an engine, by the tables of health.toml."""

    def __init__(self, limits: Mapping[str, Any], restart: Mapping[str, Any]) -> None:
        self._limits, self._restart = limits, restart
        self._looks: deque[Look] = deque()
        self._quiet_since = self._stopped_since = 0.0
        self._has_made_tokens = False

    def forget(self) -> None:
        """Begin anew: no engine runs."""
        self._looks.clear()
        self._has_made_tokens = False

    def see(self, look: Look) -> None:
        """Take a look into account."""
        before = self._looks[-1] if self._looks else None
        # After a pause of the agent itself, such as of its virtual machine, nothing is known of the time between.
        if before is not None and look.at - before.at > 2 * float(self._limits["quiet_s"]):
            self.forget()
            before = None
        # An engine that hangs does not report new requests: until it answers a question again, it owes that answer.
        is_owed = look.is_asked or look.failures >= UNANSWERED
        owes = look.progress is None or is_owed or look.running + look.waiting > 0
        last = next((one.progress for one in reversed(self._looks) if one.progress is not None), None)
        moved = before is None or (look.progress is not None and look.progress != last)
        if moved or not owes or look.answers != getattr(before, "answers", look.answers):
            self._quiet_since = look.at
        if before is None or not look.is_stopped:
            self._stopped_since = look.at
        self._has_made_tokens = self._has_made_tokens or look.tokens > 0
        self._looks.append(look)
        while len(self._looks) > 2 and look.at - self._looks[1].at >= self._limits["idle_s"]:
            self._looks.popleft()

    def wants_question(self) -> bool:
        """Return whether nothing else shows that the engine computes: it has no request, and made no token for one."""
        if not self._looks or self._looks[-1].progress is None:
            return False
        now = self._looks[-1]
        if now.is_asked or now.running + now.waiting > 0:
            return False
        before = self._looks[-2] if len(self._looks) > 1 else now
        return now.tokens - before.tokens <= now.answers - before.answers

    def word(self) -> str:
        """Return the answer to HAProxy: `up`, or `down` with the reason.

        Only words of health are used. `drain`, `maint` and `ready` would set or undo what an administrator decided.
        """
        if not self._looks:
            return UP
        now = self._looks[-1]
        quiet_s = now.at - self._quiet_since
        if quiet_s >= self._limits["patience_s"]:
            return f"down #no token for {quiet_s:.0f} s"
        is_frozen = now.is_stopped and quiet_s >= self._limits["quiet_s"]
        if is_frozen or (quiet_s >= self._limits["idle_s"] and self._is_idle()):
            return f"down #frozen: has requests and has computed nothing for {quiet_s:.1f} s"
        if now.failures >= self._limits["failures"]:
            return f"down #answered 5xx to {now.failures} questions"
        return UP

    def hang(self) -> str | None:
        """Return why the engine has to be restarted; None while it computes, or may compute.

        Errors and a lack of answers to questions are no reason: an engine under full load may be slow.
        """
        if not self._looks:
            return None
        now = self._looks[-1]
        quiet_s, stopped_s = now.at - self._quiet_since, now.at - self._stopped_since
        if stopped_s >= self._restart["stopped_s"]:
            return f"frozen: stopped by a signal for {stopped_s:.0f} s"
        if quiet_s >= self._restart["idle_s"] and self._is_idle():
            return f"frozen: has requests and has computed nothing for {quiet_s:.0f} s"
        if quiet_s >= self._restart["busy_s"] and self._has_made_tokens:
            return f"no token for {quiet_s:.0f} s"
        return None

    def _is_idle(self) -> bool:
        """Return whether the processes got no time over the looks that are kept; False where that is unknown."""
        first, now = self._looks[0], self._looks[-1]
        # A server that does not answer is looked at itself: it may be at work on a long prompt, or on an answer to us.
        kind = "engine_cpu_s" if now.progress is not None else "all_cpu_s"
        before_s, now_s = getattr(first, kind), getattr(now, kind)
        if before_s is None or now_s is None:
            return False
        return bool(0 <= now_s - before_s <= self._limits["idle_cores"] * now.engines * (now.at - first.at))
