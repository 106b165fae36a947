"""ASGI middleware for `vllm serve --middleware`: every route but the health check asks for the API key.

vLLM's own check guards only paths that begin with a few prefixes; inference is served beside them, too. This one stands
before the application and knows no list of routes, so that one which a release adds is guarded as well.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Any, Send], Awaitable[None]]

OPEN = "/health"
"""Says whether the engine is alive, and nothing else."""
KEY_VARIABLE = "VLLM_API_KEY"
_BODY = json.dumps({"error": "Unauthorized"}).encode()
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", str(len(_BODY)).encode()),
    (b"www-authenticate", b"Bearer"),
]


class RequireKey:
    """Passes on what carries the key, the health check, and what a browser asks before a request of its own."""

    def __init__(self, app: Application) -> None:
        key = os.environ.get(KEY_VARIABLE)
        if not key:
            # Without a key everything would be open: the server is not started so.
            raise RuntimeError(f"{KEY_VARIABLE} is not set: this server was to ask for a key")
        self.app = app
        self.digest = _digest(key.encode())

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 401, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": _BODY})

    def _may_pass(self, scope: Scope) -> bool:
        headers = scope.get("headers") or ()
        if scope["type"] == "http":
            if scope["path"] in (OPEN, scope.get("root_path", "") + OPEN):
                return True
            names = {name.lower() for name, _ in headers}
            if scope["method"] == "OPTIONS" and {b"origin", b"access-control-request-method"} <= names:
                # Browsers send it without credentials; vLLM's CORS middleware answers it, no route does.
                return True
        return self._has_key([value for name, value in headers if name.lower() == b"authorization"])

    def _has_key(self, values: list[bytes]) -> bool:
        if len(values) != 1:
            return False
        scheme, _, key = values[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(_digest(key.strip()), self.digest)


def _digest(key: bytes) -> bytes:
    """Of one length whatever is sent, so that comparing takes the same time."""
    return hashlib.sha256(key).digest()
