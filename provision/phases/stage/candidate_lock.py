"""The choice of the candidate that is locked, and the cache of earlier choices.

Each candidate is cached by itself. Its key covers all that its lock depends on: its builds, Python, platform, local wheels, whether
its package is required, the user's index settings and uv's version. So a second run needs neither uv nor a network, and gives the same
environment although the host or the rest of the catalog has changed. A refusal is cached only when another candidate was locked; else all are tried again.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pydantic import ValidationError

from provision.catalog.index.project_page import IndexSources, find_sources
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import FirstlightError, IndexUnreachableError, StageError, index_access_hint
from provision.core.grouping import gather
from provision.core.models.base import Record
from provision.core.models.stack import Candidate, FlashAttnPackage, FlashAttnPlan, Reason, Stack
from provision.core.run_folder import utc_now
from provision.phases.stage.download import OnStored, Progress
from provision.phases.stage.local_wheels import build_local_wheel, local_sources
from provision.phases.stage.programs import locked_uv
from provision.phases.stage.solve import LockedWheel, executor_requirements
from provision.phases.stage.stack_lock import Solved, fetch_wheels, lock_stack, unpacked_size, wrong_platform
from provision.phases.stage.wheelhouse import Store

FORMAT = 2
"""Format of the cache. A new number invalidates all entries."""


class Packager(Protocol):
    """Provides the package that a Stack names (flash-attn): a published wheel, or one that is built."""

    def requires(self, package: FlashAttnPackage) -> Sequence[str]:
        """Return what the package needs at run time besides torch."""

    def provide(
        self,
        stack: Stack,
        package: FlashAttnPackage,
        wheels: Sequence[LockedWheel],
        sources: IndexSources,
        progress: Progress | None,
    ) -> LockedWheel:
        """Put the wheel of the package into the wheelhouse. The `url` of a built wheel is empty.

        Raises StageError where the wheel cannot be had, or does not fit the Stack.
        """


class LockedStack(Record):
    """A solved lock as the cache keeps it."""

    wheels: tuple[LockedWheel, ...]
    unpacked_bytes: int
    notes: tuple[str, ...] = ()
    without_package: bool = False
    """Whether the Stack's package is left out; a note says why."""


class CachedLock(Record):
    """The cached result for a candidate: exactly one of the two fields is set."""

    locked: LockedStack | None = None
    refused: Reason | None = None


@dataclass(frozen=True)
class StageJob:
    """The inputs of one call of `stage`."""

    settings: ClientSettings
    store: Store
    progress: Progress | None
    refresh: bool
    packager: Packager | None
    """None where no feature provides packages; Stacks with one are then refused, or locked without it."""
    package_required: bool
    """Whether a Stack without its package is refused; else it is locked without the package."""
    on_stored: OnStored = lambda _path: None


@dataclass(frozen=True)
class LockedCandidate:
    """The locked candidate, whose wheels are in the wheelhouse."""

    stack: Stack
    refused: tuple[Reason, ...]
    locked: LockedStack
    from_cache: bool


@dataclass(frozen=True)
class _Attempt:
    """A candidate with its Stack and its cache key."""

    candidate: Candidate
    stack: Stack
    key: str

    @property
    def package(self) -> FlashAttnPackage | None:
        """The package that is provided beside the lock."""
        package = self.stack.flash_attn.package
        return None if package and package.is_locked else package

    def chosen(self, locked: LockedStack, refused: Sequence[Reason], *, from_cache: bool) -> LockedCandidate:
        stack = without_package(self.stack) if locked.without_package else self.stack
        return LockedCandidate(stack, tuple(refused), locked, from_cache)


def lock_best_candidate(candidates: Sequence[tuple[Candidate, Stack]], job: StageJob) -> LockedCandidate:
    """Lock the first candidate that can be locked, the best first; verify and fetch all of its wheels.

    Raises StageError where no candidate can be locked, or a wheel cannot be had.
    """
    attempts = [
        _Attempt(candidate, stack, cache_key(stack, job.settings, package_required=job.package_required))
        for candidate, stack in candidates
    ]
    refused: list[Reason] = []
    for attempt in [] if job.refresh and not job.settings.bundled else attempts:
        try:
            known = CachedLock.model_validate(job.store.get("locks", attempt.key) or {})
        except ValidationError:
            known = CachedLock()
        if known.locked and not _package_lost(attempt, known.locked, job.store):
            _ensure(attempt, known.locked.wheels, job)
            return attempt.chosen(known.locked, refused, from_cache=True)
        if known.refused:
            refused.append(known.refused.model_copy(update={"candidate": attempt.candidate.id}))
        elif not job.settings.bundled:
            break
    if job.settings.bundled:
        raise StageError(
            f"`{job.settings.bundled.name}` has no environment for this class of host: "
            f"{job.settings.bundled.difference(attempts[0].stack)}",
            hint="create a bundle for it on a machine with a network: ./firstlight bundle create -i INVENTORY",
        )
    return _solve(attempts, job)


def cache_key(stack: Stack, settings: ClientSettings, *, package_required: bool = False) -> str:
    """Return the key of a Stack's lock: a digest of all that the lock depends on.

    Args:
        package_required: Whether a Stack without its package is refused.
    """
    parts = {
        "format": FORMAT,
        "uv": locked_uv()[0],
        "settings": settings.digest(),
        "own": [source.digest() for source in local_sources(stack)],
        "stack": stack.model_dump(
            mode="json", include={"vllm", "torch", "python", "platform"}, exclude={"vllm": {"wheel"}}
        ),
        "kernels": [item.model_dump() for item in stack.flashinfer.packages] if stack.flashinfer else [],
        "python": stack.interpreter.version,
        "existing": stack.interpreter.torch,
        "supervisor": stack.supervisor == "supervisor",
        "dependencies": stack.dependencies.model_dump() if stack.dependencies else None,
        "package": package.model_dump(mode="json") if (package := stack.flash_attn.package) else None,
    }
    if stack.executor != "mp":  # the keys of all other environments stay as they are
        parts["executor"] = executor_requirements(stack)
    if stack.vllm and stack.vllm.wheel:
        parts["wheel"] = stack.vllm.wheel.sha256
    if stack.packages:
        parts["packages"] = stack.packages
    if stack.tracing:
        parts["tracing"] = stack.tracing
    if package and package_required:
        parts["package_required"] = True
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _solve(attempts: list[_Attempt], job: StageJob) -> LockedCandidate:
    if job.progress:
        job.progress("solve", 0, 0)
    sources = find_sources(job.settings)
    refused: list[tuple[str, Reason]] = []
    for attempt in attempts:
        solved, left_out = _lock_or_leave_out(attempt, sources, job)
        if isinstance(solved, StageError):
            refused.append((attempt.key, _refusal(attempt, solved)))
            continue
        wheels = solved.wheels
        if attempt.package:
            try:
                if job.packager is None:
                    raise StageError(
                        "this copy of the product has no feature that provides it",
                        hint="use the whole product, with provision/features/wheel_builder",
                    )
                wheels.append(job.packager.provide(attempt.stack, attempt.package, wheels, sources, job.progress))
            except FirstlightError as error:
                if job.package_required:
                    refused.append((attempt.key, _refusal(attempt, error)))
                    continue
                left_out = _left_out(attempt.package, error)
        locked = LockedStack(
            wheels=tuple(wheels),
            unpacked_bytes=unpacked_size(job.store.path(wheel.sha256, wheel.name) for wheel in wheels),
            notes=(*sources.notes, *solved.notes, *([left_out] if left_out else [])),
            without_package=left_out is not None,
        )
        for key, reason in refused:
            job.store.put("locks", key, CachedLock(refused=reason).model_dump(mode="json"))
        job.store.put("locks", attempt.key, CachedLock(locked=locked).model_dump(mode="json"))
        return attempt.chosen(locked, [reason for _, reason in refused], from_cache=False)
    raise no_lock_error([reason for _, reason in refused])


def no_lock_error(refused: Sequence[Reason]) -> StageError:
    """Return the error for a run in which every candidate was refused: one line a cause, and a hint that removes the causes.

    Refusals that differ only in numbers, such as those of two releases, are one cause.
    """
    alike = gather((re.sub(r"\d[\w.+]*", "", reason.text), reason) for reason in refused)
    lines = [
        f"  {same[0].candidate}{f' and {len(same) - 1} more' if len(same) > 1 else ''}: {same[0].text}"
        for same in alike.values()
    ]
    closed = [str(index) for reason in refused for index in reason.facts.get("indexes", ())]
    hint = "add an index or find-links folder with one of these builds to your pip or uv settings"
    causes = {reason.facts.get("cause") for reason in refused}
    # Access to one more index may be enough, so an unreachable index comes before all other causes.
    cause = IndexUnreachableError.cause if closed else causes.pop() if len(causes) == 1 else None
    text = "\n".join(["no candidate could be locked:", *lines])
    return StageError(text, hint=index_access_hint(closed) if closed else hint, cause=cause)


def _lock_or_leave_out(
    attempt: _Attempt, sources: IndexSources, job: StageJob
) -> tuple[Solved | StageError, str | None]:
    """Lock a candidate; if its flash-attn-4 is the obstacle and is not required, without it, and say why it was left out."""
    solved, package = _lock(attempt, sources, job), attempt.stack.flash_attn.package
    if not isinstance(solved, StageError) or package is None or not package.is_locked or job.package_required:
        return solved, None
    alone = _lock(replace(attempt, stack=without_package(attempt.stack)), sources, job)
    return alone, _left_out(package, solved)


def _lock(attempt: _Attempt, sources: IndexSources, job: StageJob) -> Solved | StageError:
    """Solve a candidate and fetch its wheels, none of them for another platform than planned; return a refusal."""
    extra = job.packager.requires(attempt.package) if attempt.package and job.packager else ()
    try:
        solved = lock_stack(attempt.stack, sources, job.store, extra)
    except StageError as error:
        return error
    paths = fetch_wheels(solved.wheels, sources, job.store, progress=job.progress, on_stored=job.on_stored)
    return wrong_platform(attempt.stack, solved.wheels, paths) or solved


def _left_out(package: FlashAttnPackage, error: FirstlightError) -> str:
    return f"{package.name} was left out: {error.text}; --refresh tries again"


def _refusal(attempt: _Attempt, error: FirstlightError) -> Reason:
    facts: dict[str, Any] = {"at": utc_now(), "python": attempt.stack.python, "platform": attempt.stack.platform}
    rule, facts = "lock", facts | ({"cause": error.cause} if error.cause else {})
    if isinstance(error, IndexUnreachableError):
        rule, facts = "index", facts | {"indexes": list(error.places), "builds": list(error.builds)}
    return Reason(rule=rule, verdict="reject", candidate=attempt.candidate.id, facts=facts, text=error.text)


def without_package(stack: Stack) -> Stack:
    """Return the Stack without its package: with the kernels in vLLM's wheel, or with none."""
    plan = stack.flash_attn
    bundled = plan.provider == "bundled"
    left = plan.model_copy(update={"package": None}) if bundled else FlashAttnPlan(provider="none")
    return stack.model_copy(update={"flash_attn": left})


def _package_lost(attempt: _Attempt, locked: LockedStack, store: Store) -> bool:
    """Check whether the package's wheel was pruned or damaged. It is then provided again, possibly as another wheel."""
    if attempt.package is None or locked.without_package:
        return False  # uv's wheels are fetched again
    wheel = locked.wheels[-1]
    return store.find(wheel.sha256, wheel.name) is None


def _ensure(attempt: _Attempt, wheels: Sequence[LockedWheel], job: StageJob) -> None:
    """Build or fetch wheels again that were pruned or damaged."""
    missing = [wheel for wheel in wheels if job.store.find(wheel.sha256, wheel.name) is None]
    if any(not wheel.url for wheel in missing):
        for source in local_sources(attempt.stack):
            build_local_wheel(source, job.store)
    if any(wheel.url for wheel in missing):
        fetch_wheels(missing, find_sources(job.settings), job.store, progress=job.progress)
