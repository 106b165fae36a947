"""The HTTP client for the user's network: their proxy, certificate, credentials and exceptions."""

from __future__ import annotations

import base64
import netrc
import os
import ssl
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from provision.artifacts.user_index import ClientSettings

if TYPE_CHECKING:
    import httpx

CONNECT_S = 3.0
READ_S = 30.0
ATTEMPTS = 4
"""Times that a small document is asked for in all while its server is busy or drops the connection."""
_BUSY = frozenset({429, 500, 502, 503, 504})


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


def get(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """GET a small document; what may pass by itself (a dropped connection, a busy server) is tried again, a silent server is not.

    Raises httpx.HTTPError, of which HTTPStatusError only for a server that stayed busy.
    """
    # A cached stage needs neither; who waits is told by what the rooms report, not by a log.
    import httpx  # noqa: PLC0415
    import stamina  # noqa: PLC0415

    stamina.instrumentation.set_on_retry_hooks(())

    def passes(error: Exception) -> bool:
        return isinstance(error, httpx.HTTPStatusError | httpx.ReadError | httpx.RemoteProtocolError)

    for attempt in stamina.retry_context(on=passes, attempts=ATTEMPTS, wait_initial=0.2, wait_max=2.0):
        with attempt:
            answer = client.get(address, **options)
            if answer.status_code in _BUSY:
                answer.raise_for_status()
    return answer


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
