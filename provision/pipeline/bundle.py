"""`bundle create`: what stage fetches for hosts, put into one signed file with the product and its launcher's wheels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from provision.core.errors import BundleError, Exit, NoStackError
from provision.core.formatting import GIB
from provision.core.models.staged import Staged
from provision.core.run_folder import require_writable
from provision.pipeline import Request, background_packages
from provision.pipeline import stage as staging
from provision.pipeline.commands import described_settings, print_summary, shapes_of, write_stdout
from provision.pipeline.context import RunContext
from provision.pipeline.phases import PLAN, PROBE, Step
from provision.pipeline.progress import report_progress
from provision.pipeline.runner import cache_folder, execute

if TYPE_CHECKING:
    from minisign import SecretKey

    from provision.phases.stage.bundle import Manifest, RecordingStore


def create(request: Request, *, what_if: str | None, output: Path, key: Path | None) -> int:
    """Make a bundle for the hosts of an inventory, or for one that is described.

    Raises UsageError where the file cannot be written, BundleError, StageError, NoStackError.
    """
    from provision.phases.stage.bundle import RecordingStore  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle.contents import left_out  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle.keys import public_text, signing_key  # noqa: PLC0415 - only bundles pay for it

    require_writable(output, "-o")
    secret = signing_key(key)
    store = RecordingStore(cache_folder())
    if what_if is not None:
        staged, model = _described(request, what_if, store), str(request.overrides.get("model", "builtin"))
    else:
        run = _run(request, store)
        if isinstance(run, int):
            return run
        staged, model = run
    manifest = _write(output, staged, model, store, secret)
    _tell(output, manifest, public_text(secret), left_out())
    return Exit.OK


def _described(request: Request, what_if: str, store: RecordingStore) -> list[Staged]:
    from provision.catalog.index.settings import read_settings  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.plan import plan  # noqa: PLC0415 - only for absent hosts
    from provision.phases.plan.what_if import parse_what_if  # noqa: PLC0415 - only for absent hosts
    from provision.phases.stage import stage  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle import sealed  # noqa: PLC0415 - only bundles pay for it
    from provision.pipeline.wheel_builds import make_wheel_builder  # noqa: PLC0415 - only bundles pay for it

    facts = parse_what_if(what_if)
    settings = described_settings(request.overrides)
    [resolution] = plan({facts.host: facts}, {facts.host: settings}, shapes=shapes_of(settings)).classes
    if resolution.stack is None:
        raise NoStackError(
            f"no Stack fits: {resolution.reasons[0].text}", hint=resolution.nearest.text if resolution.nearest else None
        )
    client, wheel_builder = sealed(read_settings()), make_wheel_builder(store, request.inventory)
    return [
        stage(
            resolution,
            settings,
            facts,
            store=store,
            client=client,
            packager=wheel_builder,
            refresh=request.refresh,
            progress=report_progress,
        )
    ]


def _run(request: Request, store: RecordingStore) -> tuple[list[Staged], str] | int:
    """What the hosts of an inventory are to be sent; an exit code when the run did not come through."""
    contexts: list[RunContext] = []
    steps: Sequence[Step] = (
        PROBE,
        PLAN,
        ("stage", lambda context: _seal(context, store, contexts)),
        ("stage", staging.stage),
    )
    summary, code = execute(request, steps)
    if code != Exit.OK:
        print_summary(request, summary)
        return code
    [context] = contexts
    models = {host.settings.model for host in context.inventory.hosts}
    if len(models) > 1 and any(Path(model).is_dir() for model in models):
        raise BundleError(
            f"these hosts serve {len(models)} models, {', '.join(sorted(models))}: a model that is a folder has a bundle of its own",
            hint="make one bundle a model: --limit HOSTS -o FILE",
        )
    unique = {staged.model_dump_json(): staged for staged in context.staged.values()}
    return list(unique.values()), models.pop()


def _seal(context: RunContext, store: RecordingStore, contexts: list[RunContext]) -> None:
    """Let stage work for a bundle: whoever lacks OS packages gets them from there, whether its own sources answer here or not."""
    from provision.catalog.index.settings import read_settings  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle import sealed  # noqa: PLC0415 - only bundles pay for it

    context.client, context.recording_store = sealed(read_settings()), store
    context.sources = {host.name: False for host in background_packages.lacking(context)}
    contexts.append(context)


def _write(output: Path, staged: list[Staged], model: str, store: RecordingStore, secret: SecretKey) -> Manifest:
    from provision.catalog.index.settings import read_settings  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle import Contents, write_bundle  # noqa: PLC0415 - only bundles pay for it
    from provision.phases.stage.bundle.contents import controller_wheels, product_files  # noqa: PLC0415 - only bundles

    contents = Contents(
        staged=staged,
        remembered=store.noted(),
        controller=controller_wheels(store, read_settings()),
        product=list(product_files()),
        model=Path(model).resolve().name if Path(model).is_dir() else None,
    )
    return write_bundle(output, contents, secret, progress=report_progress)


def _tell(output: Path, manifest: Manifest, public: str, own: Sequence[str]) -> None:
    lines = [f"{output}: {output.stat().st_size / GIB:.2f} GiB, {len(manifest.files)} files, signed"]
    for held in manifest.classes:
        vllm = f"vLLM {held.stack.vllm.version} ({held.stack.vllm.variant}), " if held.stack.vllm else ""
        packages = f", {held.os_packages} OS packages" if held.os_packages else ", no OS packages"
        torch = f"torch {held.stack.torch.version} ({held.stack.torch.variant})"
        lines.append(f"  for {', '.join(held.hosts)}: {vllm}{torch}, Python {held.stack.interpreter.version}{packages}")
    if own:
        lines.append(f"  not in it, for it may hold secrets of yours: {', '.join(own)}")
    lines.append(f"  use it: ./firstlight provision --bundle {output.name} --trust {public} -i INVENTORY")
    write_stdout("\n".join(lines))
