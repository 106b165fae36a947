"""The release of a GitHub repository with a file, and its hash. Queried at each fetch, since new releases are frequent."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from provision.catalog.index.http_client import describe_error, get, open_client
from provision.catalog.index.settings import ClientSettings
from provision.core.errors import StageError
from provision.core.json_text import parse

API = "https://api.github.com"
"""Without a login it answers 60 requests an hour. Source: docs.github.com/rest/releases/releases."""
PAGE = 30
"""Releases in one answer, newest first; each lists all of its files."""
MOST_PAGES = 100
"""Limit of pages. A repository with more releases does not publish wheels."""

HINT = "put that file into a find-links folder of your settings, or build it: firstlight_builder: controller"


def find_released(repository: str, file: str, settings: ClientSettings) -> tuple[str, str | None]:
    """Find a file in the releases of a repository (`owner/name`), newest release first.

    Returns:
        Its address, and its sha256 where the host has one.

    Raises:
        StageError: No release has it, or the host does not answer.
    """
    import httpx

    address = f"{API}/repos/{repository}/releases"
    try:
        with open_client(settings) as client:
            for page in range(1, MOST_PAGES + 1):
                releases = _page(get(client, address, params={"per_page": PAGE, "page": page}))
                if not releases:
                    break
                for asset in (asset for release in releases for asset in release["assets"]):
                    if asset["name"] == file:
                        kind, _, digest = str(asset.get("digest") or "").partition(":")
                        return asset["browser_download_url"], digest if kind == "sha256" else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = describe_error(error)
    except (ValueError, KeyError, TypeError):
        problem = "the answer is not a list of releases"
    else:
        raise StageError(f"no release of {repository} has `{file}`", hint=HINT)
    raise StageError(f"{urlsplit(API).hostname} cannot locate `{file}`: {problem}", hint=HINT)


def _page(answer: Any) -> list[dict[str, Any]]:
    answer.raise_for_status()
    found = parse(answer.content)
    if not isinstance(found, list):
        raise TypeError(found)
    return found
