"""`bundle create`: what `stage` fetches, in one signed file with the product and the wheels of its launcher.

The size of the file is known first, everything in it is hashed again, and the result is complete or absent.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from provision import __version__
from provision.catalog.index.settings import read_settings, without_credentials
from provision.core import features
from provision.core.errors import BundleError, Exit, NoStackError
from provision.core.folders import cache_folder
from provision.core.formatting import GIB, format_bytes
from provision.core.models.staged import Staged
from provision.core.run_folder import require_writable, utc_now
from provision.features.bundle.manifest import (
    CONTROLLER,
    FILES,
    MANIFEST,
    PRODUCT,
    SBOM,
    SIGNATURE,
    BundledClass,
    BundledFile,
    BundledModel,
    CacheEntry,
    Manifest,
    public_text,
    sign,
    signing_key,
)
from provision.features.bundle.product_files import controller_wheels, list_user_files, product_files
from provision.phases.plan import choose_stacks
from provision.phases.plan.what_if import parse_what_if
from provision.phases.stage import stage
from provision.phases.stage.debs import why_not_fetched
from provision.phases.stage.download import Progress
from provision.phases.stage.model_description import describe_all
from provision.phases.stage.staging import STAGED
from provision.phases.stage.step import stage as stage_hosts
from provision.phases.stage.vllm_wheel import WheelReader
from provision.phases.stage.wheelhouse import Store, flat_name, sha256_of
from provision.pipeline import CommandRequest
from provision.pipeline.commands import described_settings, print_summary, shapes_of, write_stdout
from provision.pipeline.phases import PLAN, PROBE
from provision.pipeline.runner import execute
from provision.report.live import report_progress
from provision.run import background
from provision.run.context import RunContext
from provision.run.desired_state import packages_of
from provision.run.results import PlannedHosts, StagedHosts
from provision.run.step import Step

if TYPE_CHECKING:
    from minisign import SecretKey

_LOCAL = frozenset({"manifests", "builds", "published", "references", STAGED})
"""Kinds of cache entries that only this machine can use: hashes of local folders, sources of builds and downloads, what its hosts need, paths of its files."""
_TAR_BLOCK = 10240
_HEADER = 1536
"""Maximum overhead of a tar member: its header and one for a long name."""


def create(request: CommandRequest, *, what_if: str | None, output: Path, key: Path | None) -> int:
    """Make a bundle for the hosts of an inventory, or for a described host; return the exit code.

    Args:
        key: The file of the signing key; the user's default key when None.

    Raises:
        BundleError: The bundle cannot be made.
        NoStackError: No Stack fits the described host.
        StageError: A file cannot be fetched.
        UsageError: The output cannot be written.
    """
    require_writable(output, "-o")
    secret = signing_key(key)
    store = RecordingStore(cache_folder())
    notes: tuple[str, ...] = ()
    if what_if is not None:
        staged, model = _described(request, what_if, store)
    else:
        from_inventory = _stage_inventory(request, store)
        if isinstance(from_inventory, int):
            return from_inventory
        staged, model, notes = from_inventory
    manifest = _write(output, staged, model, store, secret)
    if own := list_user_files():
        notes = (*notes, f"left out, because it may contain your secrets: {', '.join(own)}")
    # A bundle asks no network, so it is not used with --refresh.
    typed = {name: value for name, value in request.invocation.options.items() if name != "--refresh"}
    typed |= {"--bundle": output.name, "--trust": public_text(secret)}
    use = request.invocation.model_copy(update={"inventory": "INVENTORY", "options": typed})
    _tell(output, manifest, (*notes, f"use it: {use.suggest('provision')}"))
    return Exit.OK


def _described(request: CommandRequest, what_if: str, store: RecordingStore) -> tuple[list[Staged], str]:
    facts = parse_what_if(what_if)
    settings = described_settings(request.overrides, what_if)
    wheel = WheelReader(store).read(facts, settings)
    wheels = {facts.host: wheel} if wheel else {}
    planned = choose_stacks({facts.host: facts}, {facts.host: settings}, shapes=shapes_of(settings), wheels=wheels)
    describe_all(settings, store)  # so that the bundle has what the plan knows of the model
    [resolution] = planned.classes
    if resolution.stack is None:
        raise NoStackError(
            f"no combination of versions fits: {resolution.reasons[0].text}",
            hint=resolution.nearest.text if resolution.nearest else None,
        )
    staged = stage(
        resolution,
        settings,
        facts,
        store=store,
        client=replace(read_settings(), sealed=True),
        packager=features.first("packager", store, request.inventory, planned),
        refresh=request.refresh,
        progress=report_progress,
    )
    return [staged], settings.model


def _stage_inventory(request: CommandRequest, store: RecordingStore) -> tuple[list[Staged], str, tuple[str, ...]] | int:
    """Return the staged files of the hosts of an inventory, their model and notes on them, or the exit code of a run that failed."""
    # A bundle has the whole model, so that a controller without a network can read it.
    request = replace(request, overrides={**request.overrides, "model_on_host": None, "source": "controller"})
    outcome = execute(request, (PROBE, PLAN, Step("stage", partial(_stage_for_bundle, store=store), "stage")))
    if outcome.exit_code != Exit.OK or not isinstance(outcome.result, StagedHosts):
        return print_summary(outcome)
    provisioned = [host for host in outcome.hosts if host.is_provisioned]
    if not provisioned:
        raise BundleError(
            "these hosts are gateways or monitor others, and a bundle has nothing for such hosts",
            hint="name hosts that serve: --limit HOSTS",
        )
    # Hosts make the built-in model themselves. Files of any other one are here, too, where nobody serves it.
    models = {host.settings.model for host in provisioned} - {"builtin"}
    if len(models) > 1 and any(Path(model).is_dir() for model in models):
        raise BundleError(
            f"these hosts serve {len(models)} models, {', '.join(sorted(models))}: a model that is a folder needs its own bundle",
            hint="make one bundle a model: --limit HOSTS -o FILE",
        )
    images = {
        (Path(file.path).name, file.sha256)
        for one in outcome.result.staged.values()
        for file in one.files
        if file.kind == "image"
    }
    if len(dict(images)) < len(images):
        raise BundleError(
            f"these hosts have {len(images)} images, and some have one name: {', '.join(sorted(dict(images)))}",
            hint="rename the files that firstlight_image names",
        )
    unique = {staged.model_dump_json(): staged for staged in outcome.result.staged.values()}
    return list(unique.values()), min(models, default="builtin"), outcome.result.notes


def _stage_for_bundle(context: RunContext, planned: PlannedHosts, *, store: RecordingStore) -> StagedHosts:
    """Stage with OS packages for every host that lacks some, whether its own package sources answer or not; note those for which this machine has none."""
    context.options = replace(context.options, client=replace(read_settings(), sealed=True))
    context.use_store(store)
    for host in context.hosts():  # so that the bundle has what the plan knows of their models and wheels
        for settings in (one for _, one in host.services if one.serves_model):
            describe_all(settings, store)
        WheelReader(store).read(planned.facts[host.name], host.settings)
    refused = {}
    for host in background.lacking(context, planned):
        facts, stack = planned.facts[host.name], planned.stack(host.name)
        refused[host.name] = why_not_fetched(packages_of(stack, facts), facts.os) if stack else None
    context.background.package_sources = {name: False for name, why in refused.items() if why is None}
    notes = tuple(f"without OS packages for {name}: {why}" for name, why in refused.items() if why)
    return stage_hosts(context, replace(planned, notes=notes))


def _write(output: Path, staged: list[Staged], model: str, store: RecordingStore, secret: SecretKey) -> Manifest:
    from provision.phases.stage.sbom import FOLDER, write_sbom

    sboms = {write_sbom(each, store.root / FOLDER) for each in staged}
    contents = BundleContents(
        staged=staged,
        cache_entries=store.cache_entries(),
        controller=controller_wheels(store, read_settings()),
        product=list(product_files()),
        sboms=sorted(sboms),
        model=Path(model).resolve().name if Path(model).is_dir() else None,
    )
    return write_bundle(output, contents, secret, progress=report_progress)


def _tell(output: Path, manifest: Manifest, notes: Sequence[str]) -> None:
    lines = [f"{output}: {output.stat().st_size / GIB:.2f} GiB, {len(manifest.files)} files, signed"]
    for held in manifest.classes:
        vllm = f"vLLM {held.stack.vllm.version} ({held.stack.vllm.variant}), " if held.stack.vllm else ""
        packages = f", {held.os_packages or 'no'} OS packages"
        torch = f"torch {held.stack.torch.version} ({held.stack.torch.variant})"
        lines.append(f"  for {', '.join(held.hosts)}: {vllm}{torch}, Python {held.stack.interpreter.version}{packages}")
    write_stdout("\n".join((*lines, *(f"  {note}" for note in notes))))


class RecordingStore(Store):
    """A wheelhouse that records the cache entries that stage reads or writes, for the bundle."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._recorded: dict[tuple[str, str], dict[str, Any]] = {}

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        found = super().get(kind, key)
        if found is not None:
            self._recorded[kind, key] = found
        return found

    def put(self, kind: str, key: str, value: Mapping[str, Any]) -> Path:
        self._recorded[kind, key] = dict(value)
        return super().put(kind, key, value)

    def cache_entries(self) -> tuple[CacheEntry, ...]:
        """Return the entries that another machine can use, in a fixed order, without credentials."""
        return tuple(
            CacheEntry(kind=kind, key=key, value=json.loads(without_credentials(json.dumps(value))))
            for (kind, key), value in sorted(self._recorded.items())
            if kind not in _LOCAL
        )


@dataclass
class BundleContents:
    """The parts of a bundle."""

    staged: list[Staged]
    cache_entries: tuple[CacheEntry, ...]
    controller: list[Path]
    product: list[tuple[str, Path]]
    model: str | None = None
    """Name of the model's folder, where the model is a local folder."""
    sboms: list[Path] = field(default_factory=list)
    """A document for each environment."""
    sources: dict[str, Path] = field(default_factory=dict, init=False)
    """Members and the files that they are read from."""

    def manifest(self) -> Manifest:
        """Return the manifest. Hashes of staged files are those of the stage phase."""
        self.sources = {
            **{CONTROLLER + path.name: path for path in self.controller},
            **{PRODUCT + name: path for name, path in self.product},
            **{SBOM + path.name: path for path in self.sboms},
        }
        files = {
            name: BundledFile(path=name, sha256=sha256_of(path), size=path.stat().st_size)
            for name, path in self.sources.items()
        }
        staged_files = [file for staged in self.staged for file in staged.files]
        for file in staged_files:
            stored = flat_name(file.name) if file.kind == "model" and not file.hub_path else Path(file.path).name
            name = f"{FILES}{file.sha256}/{stored}"
            files[name] = BundledFile(path=name, sha256=file.sha256, size=file.size)
            self.sources[name] = Path(file.path)
        model = {file.name: file.sha256 for file in staged_files if file.kind == "model" and not file.hub_path}
        return Manifest(
            product=__version__,
            made_at=utc_now(),
            classes=tuple(
                BundledClass(
                    hosts=staged.hosts,
                    stack=staged.stack,
                    os_packages=sum(file.kind == "deb" for file in staged.files),
                )
                for staged in self.staged
            ),
            model=BundledModel(name=self.model, files=model) if self.model is not None else None,
            cache_entries=self.cache_entries,
            files=tuple(files.values()),
        )


def write_bundle(
    output: Path, contents: BundleContents, key: SecretKey, *, progress: Progress | None = None
) -> Manifest:
    """Write the bundle to a partial file and rename it. Raises BundleError where that fails, the disk is too full, or a staged file changed."""
    manifest = contents.manifest()
    text = manifest.model_dump_json(indent=1).encode()
    signature = sign(key, text, f"firstlight bundle made {manifest.made_at}")
    total = manifest.size + len(text) + _HEADER * (len(manifest.files) + 2) + _TAR_BLOCK
    part = output.with_name(f"{output.name}.part")
    output.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(output.parent).free
    if free < total:
        raise BundleError(
            f"the bundle needs {format_bytes(total)}, and {format_bytes(free)} are free at `{output.parent}`",
            hint="choose a folder on a larger disk with -o",
        )
    try:
        with part.open("wb") as raw, tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, MANIFEST, len(text), io.BytesIO(text))
            _add(tar, SIGNATURE, len(signature), io.BytesIO(signature))
            done = 0
            for file in manifest.files:
                _add_file(tar, file, contents.sources[file.path])
                done += file.size
                if progress:
                    progress("bundle", done, manifest.size)
        part.replace(output)
    except OSError as error:
        raise BundleError(
            f"`{error.filename or output}` cannot be read or written: {error.strerror}",
            hint="choose another folder with -o, or run the command again",
        ) from None
    finally:
        part.unlink(missing_ok=True)
    return manifest


def _add_file(tar: tarfile.TarFile, file: BundledFile, source: Path) -> None:
    mode = 0o755 if source.stat().st_mode & 0o100 else 0o644
    with source.open("rb") as reading:
        hashed = _Hashed(reading)
        try:
            _add(tar, file.path, file.size, hashed, mode=mode)
        except OSError as error:
            if error.errno is not None:  # else the file became shorter
                raise
    if hashed.digest.hexdigest() != file.sha256:
        raise BundleError(f"`{source}` changed while the bundle was written", hint="create it again")


class _Hashed:
    """A file that is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block


def _add(tar: tarfile.TarFile, name: str, size: int, content: io.BytesIO | _Hashed, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, mode
    tar.addfile(entry, content)
