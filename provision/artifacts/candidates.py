"""Which candidate is locked, and what is remembered of that.

Each candidate is remembered by itself, under all that its lock depends on: its builds, Python, platform, our own wheels, the user's index
settings, uv's version. So a second run needs neither uv nor a network, and gives the same environment although the host, or the rest of the
catalog, changed meanwhile. A refusal is remembered only beside a candidate that could be locked: where nothing could, all are tried anew.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from provision.artifacts.download import Arrived, Progress
from provision.artifacts.hostuv import LOCK, locked_hashes
from provision.artifacts.lock import Locked
from provision.artifacts.ownwheels import OwnSource, build, own_sources
from provision.artifacts.user_index import ClientSettings
from provision.artifacts.wheelhouse import Store
from provision.errors import StageError
from provision.models.base import Record
from provision.models.stack import Candidate, Reason, Stack
from provision.run import utc_now

FORMAT = 1
"""Of what is remembered; a new number solves everything anew."""


class LockedStack(Record):
    """A solved lock as it is kept between runs."""

    wheels: tuple[dict[str, Any], ...]
    unpacked_bytes: int
    notes: tuple[str, ...] = ()

    def files(self) -> list[Locked]:
        return [Locked(**row) for row in self.wheels]


class Remembered(Record):
    """What became of a candidate: exactly one of the two."""

    locked: LockedStack | None = None
    refused: Reason | None = None


@dataclass(frozen=True)
class Job:
    """What one call of `stage` works with."""

    settings: ClientSettings
    store: Store
    progress: Progress | None
    refresh: bool
    arrived: Arrived | None = None


@dataclass(frozen=True)
class Chosen:
    """The candidate that is locked and its wheels on this machine."""

    stack: Stack
    refused: tuple[Reason, ...]
    locked: LockedStack
    paths: tuple[Path, ...]
    from_cache: bool


@dataclass(frozen=True)
class _Try:
    """A candidate with what belongs to it."""

    candidate: Candidate
    stack: Stack
    own: list[OwnSource]
    key: str


def choose(candidates: list[tuple[Candidate, Stack]], job: Job) -> Chosen:
    """The first candidate that can be locked, every wheel of it verified and here.

    Raises StageError when none can be locked, or a wheel cannot be had.
    """
    tries = [_prepare(candidate, stack, job) for candidate, stack in candidates]
    refused: list[Reason] = []
    for attempt in [] if job.refresh and not job.settings.bundled else tries:
        known = _recall(attempt.key, job.store)
        if known.locked:
            paths = _ensure(attempt, known.locked.files(), job)
            return Chosen(attempt.stack, tuple(refused), known.locked, paths, from_cache=True)
        if known.refused:
            refused.append(known.refused.model_copy(update={"candidate": attempt.candidate.id}))
        elif not job.settings.bundled:
            break
    if job.settings.bundled:
        raise StageError(
            f"`{job.settings.bundled.name}` has no environment for this class of host: "
            f"{job.settings.bundled.difference(tries[0].stack)}",
            hint="make a bundle for it where there is a network: ./firstlight bundle create -i INVENTORY",
        )
    return _solve(tries, job)


def _recall(key: str, store: Store) -> Remembered:
    try:
        return Remembered.model_validate(store.recall("locks", key) or {})
    except ValidationError:
        return Remembered()


def _prepare(candidate: Candidate, stack: Stack, job: Job) -> _Try:
    own = own_sources(stack)
    parts = {
        "format": FORMAT,
        "uv": locked_hashes(LOCK, "uv")[0],
        "settings": job.settings.digest(),
        "own": [source.digest() for source in own],
        "stack": stack.model_dump(mode="json", include={"vllm", "torch", "python", "platform"}),
        "kernels": [item.model_dump() for item in stack.flashinfer.packages] if stack.flashinfer else [],
        "python": stack.interpreter.version,
        "supervisor": stack.supervisor == "supervisor",
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return _Try(candidate, stack, own, key)


def _solve(tries: list[_Try], job: Job) -> Chosen:
    from provision.artifacts.locking import fetch_wheels, find_sources, lock_stack, unpacked_size  # noqa: PLC0415 (once)

    if job.progress:
        job.progress("solve", 0, 0)
    with ThreadPoolExecutor() as pool:
        # Our own wheels of the likeliest candidate are built while the user's places are asked.
        building = [pool.submit(build, source, job.store) for source in tries[0].own]
        sources = find_sources(job.settings)
        for wheel in building:
            wheel.result()
    refused: list[tuple[str, Reason]] = []
    for attempt in tries:
        try:
            wheels = lock_stack(attempt.stack, attempt.own, sources, job.store)
        except StageError as error:
            facts = {"at": utc_now(), "python": attempt.stack.python, "platform": attempt.stack.platform}
            reason = Reason(rule="lock", verdict="reject", candidate=attempt.candidate.id, facts=facts, text=error.text)
            refused.append((attempt.key, reason))
            continue
        fetch_wheels(wheels, job.settings, sources.indexes, job.store, progress=job.progress, arrived=job.arrived)
        paths = tuple(job.store.folder(wheel.sha256) / wheel.name for wheel in wheels)
        rows = tuple(asdict(wheel) for wheel in wheels)
        locked = LockedStack(wheels=rows, unpacked_bytes=unpacked_size(paths), notes=sources.notes)
        for key, reason in refused:
            job.store.remember("locks", key, Remembered(refused=reason).model_dump(mode="json"))
        job.store.remember("locks", attempt.key, Remembered(locked=locked).model_dump(mode="json"))
        return Chosen(attempt.stack, tuple(reason for _, reason in refused), locked, paths, from_cache=False)
    raise StageError(
        "no candidate could be locked:\n" + "\n".join(f"  {reason.candidate}: {reason.text}" for _, reason in refused),
        hint="let this machine reach one of the places named, or add one that has the builds to your pip or uv index settings",
    )


def _ensure(attempt: _Try, wheels: list[Locked], job: Job) -> tuple[Path, ...]:
    """Every wheel's path; what was pruned or damaged since is built or fetched again."""
    here = {wheel.sha256: job.store.find(wheel.sha256, wheel.name) for wheel in wheels}
    if not all(here.values()):
        from provision.artifacts.locking import fetch_wheels, find_sources  # noqa: PLC0415 (when something is missing)

        if any(not wheel.url and not here[wheel.sha256] for wheel in wheels):
            for source in attempt.own:
                build(source, job.store)
        missing = [wheel for wheel in wheels if wheel.url and not here[wheel.sha256]]
        if missing:
            fetch_wheels(missing, job.settings, find_sources(job.settings).indexes, job.store, progress=job.progress)
    return tuple(job.store.folder(wheel.sha256) / wheel.name for wheel in wheels)
