"""Whether the engine hangs: it has something to compute, its processes run, and nothing comes of it."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass

from provision.phases.serve.onhost.shared.engine import Server, table


@dataclass(frozen=True)
class Look:
    """What was seen of an engine at one time. Counts are since its start."""

    at: float
    """Seconds of a clock that never goes back."""
    progress: tuple[float, ...] | None
    """Values that only a computing engine changes; None where the server did not answer in time."""
    tokens: float = 0.0
    answers: int = 0
    """Questions of ours that were answered."""
    is_asked: bool = False
    """Whether a request of a client or a question of ours waits for its answer."""


class Progress:
    """What is known of an engine's progress. After a pause of more than `pause_s` between two looks, nothing is known of the time between."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._last: Look | None = None
        self._values: tuple[float, ...] | None = None
        self._since = 0.0
        self._has_computed = False

    def see(self, look: Look) -> float:
        """Return the seconds for which the engine has computed nothing, although it was asked to.

        Before its first token they are 0: kernels may be compiled for the first request, which takes minutes.
        """
        last, self._last = self._last, look
        self._has_computed = self._has_computed or look.tokens > 0 or look.answers > 0
        owes = look.progress is None or look.is_asked
        moved = look.progress is not None and look.progress != self._values
        self._values = look.progress or self._values
        is_new = last is None or look.at - last.at > self._pause_s
        if is_new or moved or not owes or not self._has_computed or (last is not None and look.answers != last.answers):
            self._since = look.at
        return look.at - self._since


class EngineWatch:
    """Looks at the engine of a server from time to time, in a thread of its own. The API key comes from the environment of the service."""

    def __init__(self, address: str, port: int) -> None:
        self.hangs_for_s: float | None = None
        """Set once it hangs."""
        limits = table("hang", __package__)["limits"]
        self._metrics = table("engine")["metrics"]
        self._look_s, self._hang_s = float(limits["look_s"]), float(limits["hang_s"])
        # A question waits for longer than the limit: the engine owes its token all the time.
        patience_s = 2 * self._hang_s
        key = os.environ.get("VLLM_API_KEY")
        self._server = Server(address, port, key, answer_s=limits["answer_s"], patience_s=patience_s)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        progress = Progress(self._hang_s / 2)
        while True:
            time.sleep(self._look_s)
            try:
                look = self._look()
            except ConnectionRefusedError:  # it starts, or ends
                continue
            silent_s = progress.see(look)
            if silent_s >= self._hang_s:
                self.hangs_for_s = silent_s
            if look.progress is not None and not look.is_asked:
                self._server.ask()

    def _look(self) -> Look:
        progress, values = self._server.figures(self._metrics)
        return Look(
            at=time.monotonic(),
            progress=progress,
            tokens=values.get("tokens", 0.0),
            answers=self._server.answers,
            is_asked=self._server.is_asked or values.get("running", 0.0) + values.get("waiting", 0.0) > 0,
        )
