"""The HTTP client for the user's network: their proxy, certificate, credentials and exceptions."""

from __future__ import annotations

import base64
import netrc
import os
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from provision.artifacts.user_index import ClientSettings

if TYPE_CHECKING:
    import httpx

CONNECT_S = 3.0
READ_S = 30.0


def open_client(settings: ClientSettings, indexes: Iterable[str] = ()) -> httpx.Client:
    """A client as the settings say.

    Credentials come from the addresses of `indexes` (sent to that host alone), else from the user's netrc.
    """
    import httpx  # noqa: PLC0415 (a cached stage never needs it)

    context = ssl.create_default_context(cafile=settings.certificate)
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    hosts = [*settings.insecure_hosts, *os.environ.get("UV_INSECURE_HOST", "").split()]
    mounts = {f"https://{host}": httpx.HTTPTransport(verify=unverified, proxy=settings.proxy) for host in hosts}
    return httpx.Client(
        verify=context,
        proxy=settings.proxy,
        mounts=mounts,
        auth=_auth(indexes),
        follow_redirects=True,
        timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
        headers={"User-Agent": "firstlight"},
    )


def _auth(indexes: Iterable[str]) -> Callable[[httpx.Request], httpx.Request]:
    """Adds basic credentials to requests for hosts that have some, unless the request carries others already."""
    known = {
        parts.netloc.rpartition("@")[2]: (unquote(parts.username), unquote(parts.password or ""))
        for parts in map(urlsplit, indexes)
        if parts.username
    }
    try:
        file: netrc.netrc | None = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, netrc.NetrcParseError):
        file = None

    def authorize(request: httpx.Request) -> httpx.Request:
        pair = known.get(request.url.netloc.decode("ascii"))
        if pair is None and file and (entry := file.authenticators(request.url.host)):
            pair = (entry[0], entry[2] or "")
        if pair and "Authorization" not in request.headers:
            token = base64.b64encode(":".join(pair).encode()).decode()
            request.headers["Authorization"] = f"Basic {token}"
        return request

    return authorize
