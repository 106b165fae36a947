"""The checks of the tables: every value has its type, every reference its row, every row its source."""

import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import fields
from datetime import date
from functools import cached_property
from typing import Any

from provision.catalog.load import Catalog
from provision.catalog.rows import Row
from provision.catalog.versions import between, cuda_of, minor, numbers, release, specifier
from provision.core.errors import UsageError

SHORT_LIVED = "new-feature"
"""NVIDIA's name for branches between two long-lived ones; their drivers are not a default."""
LEAST_SOURCE = 6
"""The minimum length of a source, in characters."""


def check(catalog: Catalog) -> list[str]:
    """Return a message for each error in the tables.

    Raises:
        TableError: A file cannot be read, or a row has an unknown field.
    """
    return [
        *_sources(catalog),
        *_unique(catalog),
        *(f"{what}: {value} has no row" for what, value, known in _references(catalog) if value not in known),
        *(f"{what}: `{day}` is not a day" for what, day in _days(catalog) if not _is_day(day)),
        *(problem for what, bounds in _ranges(catalog) for problem in _range(what, bounds)),
        *_builds(catalog),
        *_stand_ins(catalog),
        *_timelines(catalog),
        *_torch_codes(catalog),
        *_spellings(catalog),
        *_drivers(catalog),
        *_advisories(catalog),
        *_flash_attn(catalog),
    ]


def tables(catalog: Catalog) -> dict[str, Any]:
    """Return every table by its name."""
    names = (name for name, value in vars(Catalog).items() if isinstance(value, cached_property))
    return {name: getattr(catalog, name) for name in names}


def _all_rows(catalog: Catalog) -> Iterator[tuple[str, Row]]:
    """Yield every row with its table's name."""
    for name, table in tables(catalog).items():
        found = table.values() if isinstance(table, dict) else table if isinstance(table, tuple) else (table,)
        yield from ((name, row) for row in found)


def _sources(catalog: Catalog) -> Iterator[str]:
    for name, row in _all_rows(catalog):
        if len(row.source.strip()) < LEAST_SOURCE:
            first = next(field.name for field in fields(row) if field.name not in {"source", "inferred"})
            yield f"{name} {getattr(row, first)}: `{row.source}` is not a source that a person can look up"


def _unique(catalog: Catalog) -> Iterator[str]:
    keys: dict[str, Iterable[Any]] = {
        "vLLM releases": (row.version for row in catalog.releases),
        "builds": ((row.version, row.variant, row.provider) for row in catalog.builds),
        "torch releases": (row.version for row in catalog.torches),
        "advisories": ((row.id, row.product, row.since) for row in catalog.advisories),
        "toolkits": (row.version for row in catalog.toolkits),
        "driver branches": (row.branch for row in catalog.branches),
        "PCI ids of NVIDIA GPUs": (identity for row in catalog.nvidia_cards for identity in row.ids),
        "PCI ids of AMD GPUs": (identity for row in catalog.amd_cards for identity in row.ids),
        "GPUs": (row.name for table in (catalog.nvidia_cards, catalog.amd_cards) for row in table),
        "timelines": (row.distribution for row in catalog.timelines),
        "flash-attn wheels": (row.version for row in catalog.flash_wheels),
        "flash-attn sources": (row.version for row in catalog.flash_sources),
        "community wheels": ((row.version, row.variant, row.machines) for row in catalog.community_wheels),
    }
    for what, found in keys.items():
        for key, count in Counter(found).items():
            if count > 1:
                yield f"{what}: {key} occurs {count} times"


def _references(catalog: Catalog) -> Iterator[tuple[str, str, Container[str]]]:
    """Yield each reference to a row: the row that has it, the other row, and the rows that exist."""
    toolkits = {f"CUDA {row.version}" for row in catalog.toolkits}
    capabilities = {f"compute capability {row.compute_capability}" for row in catalog.architectures}
    repositories = {f"repository {row.name} for {row.manager}" for row in catalog.package_repositories}
    systems = {f"system {name}" for row in catalog.package_systems for name in (row.id, f"{row.id} {row.version_id}")}
    yield from _references_of_builds(catalog, toolkits)
    for card in catalog.nvidia_cards:
        yield card.name, f"compute capability {card.compute_capability}", capabilities
    for compiler in catalog.host_compilers:
        yield "host compiler", f"CUDA {compiler.cuda}", toolkits
    for component in catalog.package_components.values():
        for manager in sorted({row.manager for row in catalog.package_systems}):
            yield f"component {component.name}", f"repository {component.repository} for {manager}", repositories
    for repository in catalog.package_repositories:
        yield from ((f"repository {repository.name}", f"system {name}", systems) for name in repository.only)
    yield from (("needs", family, catalog.needs) for family in ("cpu", "cuda", "rocm"))


def _references_of_builds(catalog: Catalog, toolkits: Container[str]) -> Iterator[tuple[str, str, Container[str]]]:
    releases = {f"vLLM {row.version}" for row in catalog.releases}
    torches = {f"torch {row.version}" for row in catalog.torches}
    majors = {f"CUDA major {row.major}" for row in catalog.cuda_majors}
    for row in catalog.releases:
        yield f"vLLM {row.version}", f"torch {row.torch}", torches
        yield f"vLLM {row.version}", f"CUDA {row.cuda}", toolkits
    for broken in catalog.broken_releases:
        yield "broken releases", f"vLLM {broken.since}", releases
        yield "broken releases", f"vLLM {broken.cured}", releases
    for build in catalog.builds:
        yield f"build {build.variant}", f"vLLM {build.version}", releases
    for torch in catalog.torches:
        for cuda in map(cuda_of, (*torch.cuda, *torch.cuda_aarch64)):
            yield f"torch {torch.version}", f"CUDA {cuda}", toolkits
            yield f"torch {torch.version}", f"CUDA major {numbers(cuda or '0')[0]}", majors
    for wheel in catalog.community_wheels:
        yield f"community wheel of flash-attn {wheel.version}", f"CUDA {cuda_of(wheel.variant)}", toolkits


def _days(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield each day with the row that has it."""
    yield from ((f"vLLM {row.version}", row.date) for row in catalog.releases if row.date is not None)
    for line in catalog.timelines:
        yield from ((f"timeline of {line.distribution}", entry.partition(" ")[0]) for entry in line.releases)


def _ranges(catalog: Catalog) -> Iterator[tuple[str, str]]:
    """Yield each range of versions with the row that has it."""
    yield from ((f"vLLM {row.version}", row.python) for row in catalog.releases)
    yield from ((f"torch {row.version}", row.python) for row in catalog.torches)
    yield from ((f"bound of {row.distribution}", row.specifier) for row in catalog.bounds)
    for source in catalog.flash_sources:
        yield from ((f"flash-attn {source.version}", bounds) for bounds in (source.torch, source.python))


def _builds(catalog: Catalog) -> Iterator[str]:
    defaults = {row.version: row.default_x86_64 for row in catalog.torches}
    for row in catalog.releases:
        variant = defaults.get(row.torch, "")
        cuda = cuda_of(variant)
        if cuda and numbers(cuda)[0] != numbers(row.cuda)[0]:
            yield f"vLLM {row.version}: CUDA {row.cuda}, but torch {row.torch} is {variant} on the default index"
    for build in catalog.builds:
        if build.variant.startswith("rocm") and not build.gfx:
            yield f"build {build.version} {build.variant}: no AMD architecture"


def _stand_ins(catalog: Catalog) -> Iterator[str]:
    torches = {row.version: row for row in catalog.torches}
    releases = {row.version: row for row in catalog.releases}
    for stand_in in catalog.torch_stand_ins:
        same = (
            build.provider == stand_in.provider and build.variant == "cpu"
            for build in catalog.builds
            if build.version == stand_in.version
        )
        if not any(same) or releases[stand_in.version].torch != stand_in.torch:
            yield f"torch {stand_in.torch} for vLLM {stand_in.version} on CPUs: no such build pins it"
        elif torches[stand_in.torch].default_x86_64 != stand_in.variant:
            yield f"torch {stand_in.torch} {stand_in.variant}: the default index has another variant"


def _timelines(catalog: Catalog) -> Iterator[str]:
    for line in catalog.timelines:
        pairs = [entry.split() for entry in line.releases]
        days, versions = [pair[0] for pair in pairs], [release(pair[-1]) for pair in pairs]
        if days != sorted(days) or versions != sorted(versions):
            yield f"timeline of {line.distribution}: days and versions do not both ascend"


def _torch_codes(catalog: Catalog) -> Iterator[str]:
    for torch in catalog.torches:
        for variant in dict.fromkeys((*torch.cuda, *torch.cuda_aarch64)):
            ranges = [
                row
                for row in catalog.torch_archs
                if row.variant == variant and between(torch.version, row.since, row.until)
            ]
            if len(ranges) > 1 or (not ranges and not torch.inferred):
                yield f"torch {torch.version}: {len(ranges)} rows name the GPU code of {variant}"


def _spellings(catalog: Catalog) -> Iterator[str]:
    for row in catalog.releases:
        for backend in catalog.platform_backends:
            if (
                backend.platform != "cuda"
                or backend.only_requested
                or not between(row.version, backend.since, backend.until)
            ):
                continue
            spelled = [
                spelling
                for spelling in catalog.spellings
                if spelling.backend == backend.backend and between(row.version, spelling.since, spelling.until)
            ]
            if len(spelled) != 1:
                yield f"vLLM {row.version}: {len(spelled)} spellings of {backend.backend}"
    for spelling in catalog.spellings:
        if spelling.until and release(spelling.until) < release(spelling.since):
            yield f"spelling {spelling.backend}: until {spelling.until} is before since {spelling.since}"


def _drivers(catalog: Catalog) -> Iterator[str]:
    offered = catalog.driver_offer.version
    branch = next((row for row in catalog.branches if row.branch == numbers(offered)[0]), None)
    if branch is None:
        yield f"the offered driver {offered}: its branch has no row"
    elif branch.newest not in {None, offered}:
        yield f"the offered driver {offered}: {branch.newest} is the newest of its branch"
    elif branch.kind == SHORT_LIVED:
        yield f"the offered driver {offered}: its branch gets fixes only for some months"
    for major in catalog.cuda_majors:
        if numbers(major.driver) > numbers(offered):
            yield f"the offered driver {offered}: CUDA {major.major} needs {major.driver}"


def _advisories(catalog: Catalog) -> Iterator[str]:
    newest = {row.branch: row.newest for row in catalog.branches}
    for row in catalog.advisories:
        what = f"advisory {row.id} of {row.product}"
        if numbers(row.since) >= numbers(row.fixed):
            yield f"{what}: {row.fixed} does not follow {row.since}"
        ours = newest.get(numbers(row.fixed)[0]) if row.product == "nvidia-driver" else None
        if ours and numbers(ours) < numbers(row.fixed):
            yield f"{what}: {ours}, the newest of its branch, is below {row.fixed}"
        floor = (catalog.package_components["container-toolkit"].oldest or {}).get(row.product)
        if floor and numbers(floor) < numbers(row.fixed):
            yield f"{what}: the component allows {floor}, which is below {row.fixed}"
        try:
            re.compile(row.architecture or "")
        except re.error as error:
            yield f"{what}: `{row.architecture}` is not a pattern: {error}"


def _flash_attn(catalog: Catalog) -> Iterator[str]:
    minors = {minor(row.version) for row in catalog.torches}
    oldest = min(map(numbers, minors))
    for wheel in (*catalog.flash_wheels, *catalog.community_wheels):
        missing = [torch for torch in wheel.torch if torch not in minors and numbers(torch) >= oldest]
        if missing:
            yield f"flash-attn {wheel.version}: a wheel for torch {', '.join(missing)}, which has no row"


def _range(what: str, bounds: str) -> Iterator[str]:
    try:
        specifier(bounds)
    except UsageError as error:
        yield f"{what}: {error.text}"


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
