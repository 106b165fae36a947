"""Which candidate is locked, and what is remembered of that.

Each candidate is remembered by itself, under all that its lock depends on: its builds, Python, platform, our own wheels, the user's index
settings, uv's version. So a second run needs neither uv nor a network, and gives the same environment although the host, or the rest of the
catalog, changed meanwhile. A refusal is remembered only beside a candidate that could be locked: where nothing could, all are tried anew.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from provision.catalog.index.http_client import open_client
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import FirstlightError, IndexUnreachableError, StageError, index_access_hint
from provision.core.models.base import Record
from provision.core.models.stack import Candidate, FlashAttnPackage, Reason, Stack
from provision.core.run_folder import utc_now
from provision.phases.stage.download import Arrived, Progress
from provision.phases.stage.extension_package import Packager, without_package
from provision.phases.stage.host_uv import LOCK, locked_hashes
from provision.phases.stage.local_wheels import OwnSource, build, own_sources
from provision.phases.stage.lock import Locked
from provision.phases.stage.prefetch import EarlyFetch
from provision.phases.stage.wheelhouse import Store

if TYPE_CHECKING:
    from provision.catalog.index.sources import Sources
    from provision.phases.stage.locking import Solved
    from provision.phases.stage.variants import Foreign

FORMAT = 2
"""Of what is remembered; a new number solves everything anew."""


class LockedStack(Record):
    """A solved lock as it is kept between runs."""

    wheels: tuple[dict[str, Any], ...]
    unpacked_bytes: int
    notes: tuple[str, ...] = ()
    without_package: bool = False
    """Whether the package that the Stack names is left out; a note says why."""

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
    packager: Packager
    package_required: bool
    """Whether a Stack without its package is refused; else it is locked without."""
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

    @property
    def package(self) -> FlashAttnPackage | None:
        return self.stack.flash_attn.package

    def locked_stack(self, locked: LockedStack) -> Stack:
        """What is really locked."""
        return without_package(self.stack) if locked.without_package else self.stack


def choose(candidates: list[tuple[Candidate, Stack]], job: Job) -> Chosen:
    """The first candidate that can be locked, every wheel of it verified and here.

    Raises StageError when none can be locked, or a wheel cannot be had.
    """
    tries = [_prepare(candidate, stack, job) for candidate, stack in candidates]
    refused: list[Reason] = []
    for attempt in [] if job.refresh and not job.settings.bundled else tries:
        known = _recall(attempt.key, job.store)
        if known.locked and not _package_lost(attempt, known.locked, job.store):
            paths = _ensure(attempt, known.locked.files(), job)
            return Chosen(attempt.locked_stack(known.locked), tuple(refused), known.locked, paths, from_cache=True)
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
        return Remembered.model_validate(store.get("locks", key) or {})
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
        "existing": stack.interpreter.torch,
        "supervisor": stack.supervisor == "supervisor",
        "dependencies": stack.dependencies.model_dump() if stack.dependencies else None,
        "package": package.model_dump(mode="json") if (package := stack.flash_attn.package) else None,
    }
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    return _Try(candidate, stack, own, key)


def _solve(tries: list[_Try], job: Job) -> Chosen:
    from provision.catalog.index.sources import find_sources  # noqa: PLC0415 (once)
    from provision.phases.stage.locking import unpacked_size  # noqa: PLC0415 (once)

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
        solved = _lock(attempt, sources, job)
        if isinstance(solved, StageError):
            refused.append((attempt.key, _refusal(attempt, solved)))
            continue
        wheels, left_out = solved.wheels, None
        if attempt.package:
            try:
                wheels.append(job.packager.provide(attempt.stack, attempt.package, wheels, sources, job.progress))
            except FirstlightError as error:
                if job.package_required:
                    refused.append((attempt.key, _refusal(attempt, error)))
                    continue
                left_out = _left_out(attempt.package, error)
        paths = tuple(job.store.path(wheel.sha256, wheel.name) for wheel in wheels)
        locked = LockedStack(
            wheels=tuple(asdict(wheel) for wheel in wheels),
            unpacked_bytes=unpacked_size(paths),
            notes=(*sources.notes, *solved.notes, *_refused_files(solved), *([left_out] if left_out else [])),
            without_package=left_out is not None,
        )
        for key, reason in refused:
            job.store.put("locks", key, Remembered(refused=reason).model_dump(mode="json"))
        job.store.put("locks", attempt.key, Remembered(locked=locked).model_dump(mode="json"))
        stack = attempt.locked_stack(locked)
        return Chosen(stack, tuple(reason for _, reason in refused), locked, paths, from_cache=False)
    raise nothing_locked([reason for _, reason in refused])


def nothing_locked(refused: Sequence[Reason]) -> StageError:
    """What is said where every candidate was refused: a line a cause, with what takes the causes away.

    Refusals that differ in numbers alone, such as those of two releases, are one cause.
    """
    alike: dict[str, list[Reason]] = {}
    for reason in refused:
        alike.setdefault(re.sub(r"\d[\w.+]*", "", reason.text), []).append(reason)
    lines = [
        f"  {same[0].candidate}{f' and {len(same) - 1} more' if len(same) > 1 else ''}: {same[0].text}"
        for same in alike.values()
    ]
    closed = [str(index) for reason in refused for index in reason.facts.get("indexes", ())]
    hint = "add an index or find-links place that has one of these builds to your pip or uv settings"
    causes = {reason.facts.get("cause") for reason in refused}
    # One index that is opened may be enough: it is the cause before all others.
    cause = IndexUnreachableError.cause if closed else causes.pop() if len(causes) == 1 else None
    text = "\n".join(["no candidate could be locked:", *lines])
    return StageError(text, hint=index_access_hint(closed) if closed else hint, cause=cause)


def _lock(attempt: _Try, sources: Sources, job: Job) -> Solved | StageError:
    """Its wheels, fetched and none of them for another platform than planned; or why it cannot be locked.

    Raises StageError when a wheel cannot be had.
    """
    from provision.phases.stage.locking import fetch_wheels, lock_stack  # noqa: PLC0415 (once)
    from provision.phases.stage.variants import foreign_inside  # noqa: PLC0415 (once)

    extra = job.packager.requires(attempt.package) if attempt.package else ()
    refused: tuple[Foreign, ...] = ()
    with EarlyFetch(job.store, partial(open_client, job.settings, sources.indexes)) as early:
        while True:
            ahead = None if refused else early
            try:
                solved = lock_stack(attempt.stack, attempt.own, sources, job.store, extra, early=ahead, refused=refused)
            except StageError as error:
                return error
            paths = fetch_wheels(
                solved.wheels, job.settings, sources.indexes, job.store, progress=job.progress, arrived=job.arrived
            )
            foreign = foreign_inside(attempt.stack, solved.wheels, paths)
            if not foreign:
                return solved
            refused = (*solved.refused, *foreign)


def _refused_files(solved: Solved) -> list[str]:
    return [f"{foreign.text}: another was taken" for foreign in solved.refused]


def _refusal(attempt: _Try, error: FirstlightError) -> Reason:
    facts: dict[str, Any] = {"at": utc_now(), "python": attempt.stack.python, "platform": attempt.stack.platform}
    rule, facts = "lock", facts | ({"cause": error.cause} if error.cause else {})
    if isinstance(error, IndexUnreachableError):
        rule, facts = "index", facts | {"indexes": list(error.places), "builds": list(error.builds)}
    return Reason(rule=rule, verdict="reject", candidate=attempt.candidate.id, facts=facts, text=error.text)


def _left_out(package: FlashAttnPackage, error: FirstlightError) -> str:
    return f"flash-attn {package.version} was left out: {error.text}; --refresh tries again"


def _package_lost(attempt: _Try, locked: LockedStack, store: Store) -> bool:
    """Whether the package's wheel was pruned or damaged since: then it is provided anew, and may be another one."""
    if attempt.package is None or locked.without_package:
        return False
    wheel = locked.files()[-1]
    return store.find(wheel.sha256, wheel.name) is None


def _ensure(attempt: _Try, wheels: list[Locked], job: Job) -> tuple[Path, ...]:
    """Every wheel's path; what was pruned or damaged since is built or fetched again."""
    here = {wheel.sha256: job.store.find(wheel.sha256, wheel.name) for wheel in wheels}
    if not all(here.values()):
        from provision.catalog.index.sources import find_sources  # noqa: PLC0415 (when something is missing)
        from provision.phases.stage.locking import fetch_wheels  # noqa: PLC0415 (when something is missing)

        if any(not wheel.url and not here[wheel.sha256] for wheel in wheels):
            for source in attempt.own:
                build(source, job.store)
        missing = [wheel for wheel in wheels if wheel.url and not here[wheel.sha256]]
        if missing:
            fetch_wheels(missing, job.settings, find_sources(job.settings).indexes, job.store, progress=job.progress)
    return tuple(job.store.path(wheel.sha256, wheel.name) for wheel in wheels)
