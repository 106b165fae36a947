"""HTTP client of a server with a limit for silence; it keeps the key out of messages."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

ANOTHER_KEY = "no-key-of-this-service"
HEALTH_S = 5.0
PARTIAL_CHAIN = 0x80000
"""X509_V_FLAG_PARTIAL_CHAIN of OpenSSL: a certificate that is trusted itself needs no issuer. Python names it since 3.10."""


class RequestError(Exception):
    """The service refused a request, broke off, or did not answer in time."""


class RefusedError(RequestError):
    """The service answered with an error; `status` is that of HTTP."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class NoAnswerError(RequestError):
    """The service sent nothing within the limit."""


@dataclass(frozen=True)
class Endpoint:
    """Where a server answers, and the model that requests name."""

    host: str
    port: int
    model: str
    certificate: str | None = None
    """File with the certificate that the server must show, whatever name it is for; None without TLS."""


@dataclass
class Client:
    """Client of one server; `silence_s` is the longest pause within an answer."""

    endpoint: Endpoint
    silence_s: float
    key: str | None = field(default=None, repr=False)
    """Sent with each request; None where the server needs none."""
    _connection: http.client.HTTPConnection | None = field(default=None, repr=False)
    _waiting: socket.socket | None = field(default=None, repr=False)
    _broken_off: str | None = field(default=None, repr=False)

    def break_off(self, reason: str) -> None:
        """End the wait for an answer, from another thread: the request fails for this reason."""
        self._broken_off = reason
        if self._waiting is not None:
            with suppress(OSError):
                self._waiting.shutdown(socket.SHUT_RDWR)

    def status(self, method: str, path: str, key: str | None) -> int:
        """Return the status of a request without a body, sent with a key that may be another one. Raises RequestError."""
        try:
            connection = self._connection or self._connect()
            self._connection = connection
            connection.request(method, path, headers=_headers(key))
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as problem:
            self._connection = None
            raise self._failed(f"{method} {path}", problem) from None
        return response.status

    def get(self, path: str) -> Any:
        """Return the JSON of a route. Raises RequestError."""
        try:
            return json.loads(self.text(path))
        except ValueError as problem:
            raise RequestError(f"{path}: the answer is no JSON: {problem}") from None

    def text(self, path: str) -> str:
        """Return the text of a route. Raises RequestError."""
        return self._answer("GET", path, None).read().decode(errors="replace")

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON and return the JSON answer. Raises RequestError."""
        try:
            return json.loads(self._answer("POST", path, body).read())
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise self._failed(path, problem) from None

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events of a streamed answer as they arrive. Raises RequestError."""
        response = self._answer("POST", path, {**body, "stream": True})
        try:
            for raw in response:
                line = raw.decode(errors="replace").strip()
                if line.startswith("data:") and line != "data: [DONE]":
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise RequestError(f"{path}: the server broke off: {event['error']}")
                    yield event
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise self._failed(path, problem) from None
        if self._broken_off:
            raise RequestError(self._broken_off)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> http.client.HTTPResponse:
        try:
            connection = self._connect()
            text = None if body is None else json.dumps({"model": self.endpoint.model, **body})
            connection.request(method, path, text, {"Content-Type": "application/json", **_headers(self.key)})
            self._waiting = connection.sock
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as problem:
            raise self._failed(path, problem) from None
        if response.status != 200:
            message = response.read(600).decode(errors="replace").strip()
            raise RefusedError(f"{path}: status {response.status}: {message}", response.status)
        return response

    def _connect(self) -> http.client.HTTPConnection:
        at = self.endpoint
        if at.certificate is None:
            return http.client.HTTPConnection(at.host, at.port, timeout=self.silence_s)
        trusted = ssl.create_default_context(cafile=at.certificate)
        trusted.check_hostname = False
        trusted.verify_flags |= PARTIAL_CHAIN
        return http.client.HTTPSConnection(at.host, at.port, timeout=self.silence_s, context=trusted)

    def _failed(self, what: str, problem: Exception) -> RequestError:
        if self._broken_off:
            return RequestError(self._broken_off)
        if isinstance(problem, TimeoutError):
            return NoAnswerError(f"{what}: nothing came for {self.silence_s:g} s")
        return RequestError(f"{what}: {problem or type(problem).__name__}")


def is_healthy(endpoint: Endpoint) -> bool:
    """Return whether a server answers that it is ready for requests."""
    try:
        return Client(endpoint, HEALTH_S).status("GET", "/health", None) == http.client.OK
    except RequestError:
        return False


def _headers(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}
