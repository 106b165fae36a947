"""The user's indexes and find-links locations that answer now."""

from dataclasses import dataclass, replace

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexClient, IndexLocation
from provision.catalog.index.settings import ClientSettings, uv_variables
from provision.catalog.index.uv import read_uv_locations


@dataclass(frozen=True)
class IndexSources:
    """Indexes and find-links locations that answer, and the variables that configure uv with them."""

    settings: ClientSettings
    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    variables: dict[str, str]
    index_client: IndexClient
    notes: tuple[str, ...] = ()


def find_sources(settings: ClientSettings) -> IndexSources:
    """Combine the settings of pip and uv. Leave out extra indexes and find-links locations that do not answer, as pip does.

    Returns:
        The locations, with a note for each one that was left out.
    """
    addresses = [settings.index or "", *settings.extra_indexes, *settings.find_links]
    index_client = IndexClient(lambda: open_client(settings, addresses))
    extra = [] if settings.no_index else [IndexLocation(url) for url in settings.extra_indexes]
    links = [IndexLocation(url, flat=True) for url in settings.find_links]
    silent = [
        page for page in index_client.fetch_pages((location, "pip") for location in [*extra, *links]) if page.problem
    ]
    missing = {page.location.url for page in silent}
    answering = replace(
        settings,
        extra_indexes=tuple(location.url for location in extra if location.url not in missing),
        find_links=tuple(location.url for location in links if location.url not in missing),
    )
    indexes, find_links = read_uv_locations(uv_variables(replace(answering, extra_indexes=()), default_index=""))
    addresses += indexes
    return IndexSources(
        settings,
        () if settings.no_index else tuple(dict.fromkeys([*indexes, *answering.extra_indexes])),
        tuple(find_links),
        uv_variables(answering, default_index=indexes[0] if indexes else ""),
        index_client,
        tuple(f"{page.location.label} was left out: {page.problem}" for page in silent),
    )
