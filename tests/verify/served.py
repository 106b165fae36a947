"""A server in a thread of the test itself, what its handlers share, and the service of an installation behind it."""

import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseServer
from typing import Any, TypeVar

from verify.serving.service import Service

Server = TypeVar("Server", bound=BaseServer)


@contextmanager
def served(server: Server) -> Iterator[Server]:
    """A server that answers while the block runs."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class Answering(BaseHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, *_: object) -> None: ...

    def handle_one_request(self) -> None:
        """Answer a request. A client that is gone is no error: its traceback would be made while another test runs."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def received(self) -> bytes:
        """Return the body of the request."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, content: Any, status: int = 200) -> None:
        """Send bytes, or any other value as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, events: Iterable[Any]) -> None:
        """Send a streamed answer, each event as it comes."""
        self.send_response(200)
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


def service_behind(
    server: HTTPServer, prefix: Path, *, key: str = "k", main_pid: int | None = None, **readiness: Any
) -> Service:
    """The service of an installation whose endpoint is this server; `readiness` changes what is said of it."""
    for name in ("etc", "run", "verify"):
        (prefix / name).mkdir(exist_ok=True)
    (prefix / "etc/service.env").write_text(f"VLLM_API_KEY={key}\n")
    known = {"host": "127.0.0.1", "served_name": "m", "model_folder": "/models/m", "unit": "u"}
    return Service(prefix, {**known, "port": server.server_port, **readiness}, main_pid)
