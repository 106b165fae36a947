"""Where bundles take part in the work of the core: a run with `--bundle` has its files from there."""

from functools import partial

from provision.catalog.index.settings import ClientSettings
from provision.core.errors import UsageError
from provision.core.folders import cache_folder
from provision.features.bundle import reader
from provision.features.bundle.product_files import require_product
from provision.phases.stage import Store
from provision.pipeline import CommandRequest
from provision.report.live import report_progress


def open_bundle(request: CommandRequest) -> tuple[ClientSettings, dict[str, str]]:
    """Verify the bundle of a command, and add its files to the wheelhouse. Return index settings that name it, and what it changes in the settings of hosts: its model, where that is a folder.

    Raises BundleError where the bundle cannot be used, and UsageError where the command asks for newer releases as well.
    """
    if request.refresh:
        raise UsageError(
            "`--refresh` asks for newer releases, and `--bundle` asks no network", hint="leave one of the two out"
        )
    assert request.bundle is not None
    opened = reader.open_bundle(
        request.bundle,
        Store(cache_folder()),
        trust=request.trust,
        accepts_older=request.older_bundle,
        progress=partial(report_progress, request.bundle.name),
    )
    require_product(opened.manifest)
    return opened.settings, {"bundled_model": opened.model} if opened.model else {}
