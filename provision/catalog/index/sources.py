"""Where the user's package client looks for files: the indexes and find-links places that answer now."""

from __future__ import annotations

from dataclasses import dataclass, replace

from provision.catalog.index.http_client import open_client
from provision.catalog.index.project_page import IndexClient, Place
from provision.catalog.index.settings import ClientSettings, uv_variables
from provision.catalog.index.uv import known_places


@dataclass(frozen=True)
class Sources:
    """The user's places as they answer now, and the variables that tell uv of them."""

    settings: ClientSettings
    indexes: tuple[str, ...]
    find_links: tuple[str, ...]
    variables: dict[str, str]
    directory: IndexClient
    notes: tuple[str, ...] = ()


def find_sources(settings: ClientSettings) -> Sources:
    """Join pip's settings with uv's, and leave out extra indexes and find-links places that do not answer, as pip would."""
    addresses = [settings.index or "", *settings.extra_indexes, *settings.find_links]
    directory = IndexClient(lambda: open_client(settings, addresses))
    extra = [] if settings.no_index else [Place(url) for url in settings.extra_indexes]
    links = [Place(url, flat=True) for url in settings.find_links]
    silent = [
        listing for listing in directory.list_all((place, "pip") for place in [*extra, *links]) if listing.problem
    ]
    missing = {listing.place.url for listing in silent}
    answering = replace(
        settings,
        extra_indexes=tuple(place.url for place in extra if place.url not in missing),
        find_links=tuple(place.url for place in links if place.url not in missing),
    )
    indexes, find_links = known_places(uv_variables(replace(answering, extra_indexes=()), default_index=""))
    addresses += indexes
    return Sources(
        settings,
        () if settings.no_index else tuple(dict.fromkeys([*indexes, *answering.extra_indexes])),
        tuple(find_links),
        uv_variables(answering, default_index=indexes[0] if indexes else ""),
        directory,
        tuple(f"{listing.place.label} was left out: {listing.problem}" for listing in silent),
    )
