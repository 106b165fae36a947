"""In which release of a GitHub repository a file lies, and its hash: asked when it is fetched, since new releases come often."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from provision.catalog.index.http_client import get, open_client
from provision.catalog.index.settings import ClientSettings, without_credentials
from provision.core.errors import StageError
from provision.core.json_text import parse

API = "https://api.github.com"
"""docs.github.com/rest/releases/releases: without a login it answers 60 requests an hour."""
PAGE = 30
"""Releases a request, newest first: each lists all of its files."""
MOST_PAGES = 100
"""A repository with more releases than these pages hold is none that publishes wheels."""

_HINT = "put that file into a folder that is among your find-links settings, or name a builder: firstlight_builder: controller"


def find_released(repository: str, file: str, settings: ClientSettings) -> tuple[str, str | None]:
    """A file's address, and its sha256 where the repository's host announces one (`owner/name`, newest release first).

    Raises StageError when no release has it, or nobody answers.
    """
    import httpx  # noqa: PLC0415 (only where a community wheel is fetched)

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
    except httpx.HTTPStatusError as error:
        problem = f"HTTP {error.response.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = without_credentials(str(error)) or type(error).__name__
    except (ValueError, KeyError, TypeError):
        problem = "what it answers is no list of releases"
    else:
        raise StageError(f"no release of {repository} has `{file}`", hint=_HINT)
    raise StageError(f"{urlsplit(API).hostname} does not say where `{file}` lies: {problem}", hint=_HINT)


def _page(answer: Any) -> list[dict[str, Any]]:
    answer.raise_for_status()
    found = parse(answer.content)
    if not isinstance(found, list):
        raise TypeError(found)
    return found
