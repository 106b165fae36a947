"""ASGI middleware for `vllm serve --middleware`: every route except the health check requires the API key.

vLLM's own check covers only paths with a few prefixes, but other paths serve inference too. This middleware runs before
the application and has no list of routes, so that it also covers routes that a release adds. It also tells the counting of tokens whose
request it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from . import usage

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Send], Awaitable[None]]

OPEN = "/health"
"""Reports only whether the engine is alive."""
KEY_VARIABLE = "VLLM_API_KEY"
_BODY = json.dumps({"error": "Unauthorized"}).encode()


class RequireKey:
    """Pass requests with the key, the health check, and the CORS preflight requests of browsers."""

    def __init__(self, app: Application) -> None:
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            # Without a key all routes would be open, so the server must not start.
            raise RuntimeError(f"{KEY_VARIABLE} is not set: this server was to ask for a key")
        self.app = app
        self.digest = _digest(key.encode())
        self.usage = usage.start()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            if self.usage is not None and scope["type"] == "http":
                if scope["path"] == usage.PATH:
                    await _answer(send, 200, self.usage.read().encode(), b"text/plain")
                    return
                usage.client.set(_client(scope))
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _answer(send, 401, _BODY, b"application/json", (b"www-authenticate", b"Bearer"))

    def _may_pass(self, scope: Scope) -> bool:
        headers = scope.get("headers") or ()
        if scope["type"] == "http":
            if scope["path"] in (OPEN, scope.get("root_path", "") + OPEN):
                return True
            names = {name.lower() for name, _ in headers}
            if scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names:
                # Browsers send it without credentials; vLLM's CORS middleware answers it before any route.
                return True
        return self._has_key([value for name, value in headers if name.lower() == b"authorization"])

    def _has_key(self, values: list[bytes]) -> bool:
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self.digest)


async def _answer(send: Send, status: int, body: bytes, kind: bytes, *more: tuple[bytes, bytes]) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _client(scope: Scope) -> str | None:
    """Return the client that the gateway names; None of a request from elsewhere."""
    return next((value.decode() for name, value in scope["headers"] if name == usage.HEADER), None)


def _digest(key: bytes) -> bytes:
    """Return a value of fixed length, so that a comparison always takes the same time."""
    return hashlib.sha256(key).digest()
