"""The commands `catalog check` and `catalog refresh`."""

from datetime import UTC, datetime

from provision.catalog import overlay
from provision.catalog.check import all_rows, check
from provision.catalog.load import Catalog
from provision.catalog.refresh.index_wheels import WheelIndex
from provision.catalog.refresh.new_releases import COMMUNITY, find_new_releases, write_overlay
from provision.core.errors import Exit


def check_tables() -> tuple[str, Exit]:
    """Check the product's tables and the user's overlays.

    Returns:
        The report and the exit status.

    Raises:
        TableError: A file cannot be read.

    """
    catalog = Catalog(overlays=overlay.read_all(overlay.folder()))
    problems = check(catalog)
    if problems:
        return "\n".join([*problems, f"{len(problems)} problems"]), Exit.RED
    found = list(all_rows(catalog))
    inferred = sum(row.inferred for _, row in found)
    tables = len({name for name, _ in found})
    lines = [f"{len(found)} rows in {tables} tables, each with its source; {inferred} hold an inferred value"]
    lines += [f"overlay {extra.path}: {sum(map(len, extra.tables.values()))} rows" for extra in catalog.overlays]
    return "\n".join(lines), Exit.OK


def refresh_tables() -> str:
    """Write new releases of the user's index to an overlay, and return the report.

    Raises:
        TableError: An overlay cannot be read.
        IndexReadError: No index answers.
        RangeError: The index serves neither metadata nor parts of files.

    """
    folder = overlay.folder()
    catalog = Catalog(overlays=overlay.read_all(folder))
    today = datetime.now(UTC).date().isoformat()
    index = WheelIndex()
    try:
        new = find_new_releases(catalog, index, today=today)
    finally:
        index.close()
    lines = [f"new: {change}" for change in new.changes] + [f"left out: {why}" for why in new.left_out]
    if not new.rows:
        return "\n".join(
            [
                *lines,
                f"nothing to add: the catalog has every release of vllm, torch and {COMMUNITY} on your index",
            ]
        )
    return "\n".join(
        [
            *lines,
            f"written to {write_overlay(new, folder, today=today)}; nobody tried these yet: ./firstlight plan --vllm newest",
        ]
    )
