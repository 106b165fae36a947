"""The HTTP client for the user's network: proxy, certificates, credentials, retries."""

from __future__ import annotations

import base64
import netrc
import os
import ssl
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from provision.catalog.index.settings import ClientSettings, without_credentials
from provision.core.errors import StageError
from provision.core.formatting import format_bytes

if TYPE_CHECKING:
    import httpx

CONNECT_S = 3.0
READ_S = 30.0
WHOLE_S = 60.0
"""Time limit for a whole small document, seconds. A server that sends single bytes never meets the read timeout."""
MOST_BYTES = 128 << 20
"""Size limit of a small document. The longest index pages have about 10 MB, model files without weights less."""
ATTEMPTS = 4
"""Maximum number of requests for a small document while the server is busy or drops the connection."""
_BUSY = frozenset({429, 500, 502, 503, 504})
_OF_THE_BODY = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})
"""Headers that describe the transferred body, not the decoded one."""


def open_client(settings: ClientSettings, indexes: Iterable[str] = ()) -> httpx.Client:
    """Open a client with the user's settings.

    Args:
        indexes: Addresses whose credentials are sent to their own hosts. Other hosts get those of the user's netrc.

    Raises:
        StageError: A certificate or a proxy cannot be used.
    """
    import httpx

    context = _trusting(settings.certificate)
    hosts = [*settings.insecure_hosts, *os.environ.get("UV_INSECURE_HOST", "").split()]
    try:
        mounts = {f"https://{host}": httpx.HTTPTransport(verify=False, proxy=_proxy(host, settings)) for host in hosts}
        return httpx.Client(
            verify=context,
            proxy=settings.proxy,
            mounts=mounts,
            auth=_auth(indexes),
            follow_redirects=True,
            timeout=httpx.Timeout(READ_S, connect=CONNECT_S),
            headers={"User-Agent": "firstlight"},
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise StageError(
            f"the network settings cannot be used: {without_credentials(str(error))}",
            hint="check HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and pip's settings `proxy` and `trusted-host`; a proxy is an HTTP proxy, such as http://proxy.example:3128",
        ) from None


def _proxy(host: str, settings: ClientSettings) -> str | None:
    """Return the proxy for a host that has a transport of its own: httpx asks the environment only for the others."""
    proxies = {} if proxy_bypass(host) else getproxies()
    proxy = settings.proxy or proxies.get("https") or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _trusting(certificate: str | None) -> ssl.SSLContext:
    """Return a context that trusts a certificate file, else what the system trusts."""
    try:
        return ssl.create_default_context(cafile=certificate)
    except OSError as error:
        problem = error.strerror if not isinstance(error, ssl.SSLError) else "it has no certificate in PEM format"
        raise StageError(
            f"the certificate file `{certificate}` cannot be used: {problem}",
            hint="correct SSL_CERT_FILE or pip's setting `cert`; without both, the certificates of the system are used",
        ) from None


def get(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """GET a small document. Retry while the server is busy or drops the connection, but not when it is silent.

    Raises:
        httpx.HTTPError: The request failed, or the answer exceeds MOST_BYTES or WHOLE_S. HTTPStatusError only when the server stays busy.
    """
    # A cached stage needs neither import. Retries are not logged, since the phases report progress themselves.
    import httpx
    import stamina

    stamina.instrumentation.set_on_retry_hooks(())

    temporary = (httpx.HTTPStatusError, httpx.ReadError, httpx.RemoteProtocolError)
    for attempt in stamina.retry_context(on=temporary, attempts=ATTEMPTS, wait_initial=0.2, wait_max=2.0):
        with attempt:
            answer = get_once(client, address, **options)
            if answer.status_code in _BUSY:
                answer.raise_for_status()
    return answer


def get_once(client: httpx.Client, address: str, **options: Any) -> httpx.Response:
    """GET a small document without retries. Raises as `get` does."""
    import httpx

    ends = time.monotonic() + WHOLE_S
    body = bytearray()
    with client.stream("GET", address, **options) as answer:
        for block in answer.iter_bytes():
            body += block
            if len(body) > MOST_BYTES:
                raise httpx.DecodingError(
                    f"the answer has more than {format_bytes(MOST_BYTES)}", request=answer.request
                )
            if time.monotonic() > ends:
                raise httpx.ReadTimeout(f"the answer was not whole within {WHOLE_S:g} s", request=answer.request)
        headers = [pair for pair in answer.headers.raw if pair[0].lower() not in _OF_THE_BODY]
        return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=answer.request)


def describe_error(error: Exception) -> str:
    """Return an error of a request as a short text without credentials."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"HTTP {status}" if status else without_credentials(str(error)) or type(error).__name__


def _auth(indexes: Iterable[str]) -> Callable[[httpx.Request], httpx.Request]:
    """Return a function that adds basic credentials to requests for known hosts, unless the request has others."""
    import httpx

    known = [
        (httpx.URL(without_credentials(index)), (unquote(parts.username), unquote(parts.password or "")))
        for index in indexes
        if (parts := urlsplit(index)).username
    ]
    try:
        file: netrc.netrc | None = netrc.netrc(os.environ.get("NETRC"))
    except (OSError, ValueError, netrc.NetrcParseError):
        file = None

    def authorize(request: httpx.Request) -> httpx.Request:
        # Each repository of a server may have a login of its own, also for its files: the nearest one counts.
        near = {
            len(os.path.commonpath([f"/{index.path}", f"/{request.url.path}"])): pair
            for index, pair in known
            if index.netloc == request.url.netloc
        }
        pair = near[max(near)] if near else None
        if pair is None and file and (entry := file.authenticators(request.url.host)):
            pair = (entry[0], entry[2] or "")
        if pair and "Authorization" not in request.headers:
            token = base64.b64encode(":".join(pair).encode()).decode()
            request.headers["Authorization"] = f"Basic {token}"
        return request

    return authorize
