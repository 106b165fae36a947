"""Rollouts on disk: LOGS/rollouts/NAME.json, one process at a time, and requests to the one that runs."""

import contextlib
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from provision.core.errors import HostLockedError, UsageError
from provision.core.files import write_atomically
from provision.core.redaction import scrub
from provision.features.rollout.model import OPEN, Rollout

Wish = Literal["pause", "abort"]


class RolloutStore:
    """All rollouts of a folder of runs. What reads one raises UsageError where its file is damaged."""

    def __init__(self, logs: Path) -> None:
        self._folder = logs / "rollouts"

    def put(self, rollout: Rollout) -> None:
        """Write a rollout; after a power failure the old or the new state is there."""
        text = json.dumps(scrub(rollout.model_dump(mode="json")), indent=2) + "\n"
        write_atomically(self._folder / f"{rollout.name}.json", text)

    def newest(self) -> Rollout | None:
        """Return the newest rollout; None where there is none."""
        paths = sorted(self._folder.glob("*.json"))
        return _read(paths[-1]) if paths else None

    def revise_newest(self, revise: Callable[[Rollout], Rollout]) -> None:
        """Write the newest rollout as `revise` returns it, where there is one. Raises HostLockedError where another process drives it."""
        if self.newest() is None:
            return
        with self.locked():
            found = self.newest()
            if found is not None and (revised := revise(found)) != found:
                self.put(revised)

    def with_run(self, run: str) -> Rollout | None:
        """Return the rollout that a run belongs to; None where it belongs to none."""
        # A rollout has the name of its first run, and there is one at a time.
        begun_before = [path for path in sorted(self._folder.glob("*.json")) if path.stem <= run]
        found = _read(begun_before[-1]) if begun_before else None
        return found if found and run in found.runs else None

    def require_open(self) -> Rollout:
        """Return the newest rollout, which has work left. Raises UsageError where there is none."""
        found = self.newest()
        if found is None or found.state not in OPEN:
            ended = f"; the newest, {found.name}, is over: {found.state}" if found else ""
            raise UsageError(f"no rollout is open{ended}", hint="begin one: ./firstlight rollout -i INVENTORY")
        return found

    def require_none_open(self) -> None:
        """Raise UsageError where a rollout has work left."""
        found = self.newest()
        if found is not None and found.state in OPEN:
            raise UsageError(
                f"rollout {found.name} is not over: {found.state}",
                hint=f"continue it: {found.suggest('resume')}; or take it back: {found.suggest('abort')}",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from driving a rollout until the process ends. Raises HostLockedError where another one drives one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HostLockedError(
                    "another process drives a rollout",
                    hint="look at it: ./firstlight rollout status; stop it: ./firstlight rollout pause, or abort",
                ) from None
            yield

    def is_driven(self) -> bool:
        """Return whether a process drives a rollout now."""
        try:
            with self.locked():
                return False
        except HostLockedError:
            return True

    def wish(self, wish: Wish) -> None:
        """Ask the process that drives the rollout for something; it looks before each host and in each round of a gate."""
        write_atomically(self._folder / "wish", wish)

    def has_wish(self) -> bool:
        """Return whether something was asked for."""
        return (self._folder / "wish").exists()

    def take_wish(self) -> Wish | None:
        """Return what was asked for, and forget it."""
        path = self._folder / "wish"
        with contextlib.suppress(FileNotFoundError):
            text = path.read_text(encoding="ascii")
            path.unlink()
            return "abort" if text == "abort" else "pause"
        return None


def _read(path: Path) -> Rollout:
    """Return the rollout of a file. Raises UsageError when it is damaged."""
    try:
        return Rollout.model_validate_json(path.read_bytes())
    except (ValidationError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no record of a rollout"
        raise UsageError(
            f"`{path}` cannot be read: {reason}",
            hint="move it away; ./firstlight status names the release of each host, ./firstlight rollback returns",
        ) from None
