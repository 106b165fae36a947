"""A package index, a hub or a mirror on 127.0.0.1, with faults to order."""

import base64
import hashlib
import json
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any


@dataclass
class Faults:
    """The faults at a path."""

    status: dict[str, list[int]] = field(default_factory=dict)
    """Status codes of the first answers, one per request."""
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Bytes after which the connection is dropped, one per request."""
    endless: dict[str, float] = field(default_factory=dict)
    """Paths whose content is sent repeatedly while a client reads, with this many seconds between."""
    no_range: bool = False
    wants: str | None = None
    """The required Authorization header; without it the answer is 401."""
    accepted: str | None = None
    """The Authorization header of the account that accepted a licence. As at a hub, others get the listing, and no file."""


class Site:
    """A server of bytes by path that counts requests."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.faults = Faults()
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.tokens: list[str | None] = []
        self.sent: Counter[str] = Counter()
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"site": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def add_wheel(self, name: str, content: bytes, *, index: str = "simple", uploaded: str | None = None) -> str:
        """Put a wheel on the index; returns the file's path.

        With `uploaded` the package's page is in JSON and has that time (PEP 700), else it is in HTML without times.
        """
        package = name.partition("-")[0].replace("_", "-").lower()
        path, page = f"/files/{index}/{name}", f"/{index}/{package}/"
        sha256 = hashlib.sha256(content).hexdigest()
        self.content[path] = content
        if uploaded:
            known = json.loads(self.content[page]) if page in self.content else {"files": []}
            row = {"filename": name, "url": path, "hashes": {"sha256": sha256}, "size": len(content)}
            files = [*known["files"], {**row, "upload-time": uploaded}]
            versions = sorted({file["filename"].split("-")[1] for file in files})
            answer = {"meta": {"api-version": "1.1"}, "name": package, "versions": versions, "files": files}
            self.content[page] = json.dumps(answer).encode()
            return path
        link = f'<a href="{path}#sha256={sha256}">{name}</a><br>\n'
        self.content[page] = self.content.get(page, b"") + link.encode()
        return path

    def close(self) -> None:
        """Stop to answer; a server that has stopped stays so."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def make_wheel(
    name: str,
    version: str = "1.0",
    *,
    requires: Iterable[str] = (),
    tag: str = "py3-none-any",
    python: str = "",
    padding: int = 0,
    more: Mapping[str, str | bytes] | None = None,
) -> tuple[str, bytes]:
    """A small real wheel: its file name and content, the same bytes for the same arguments.

    Args:
        python: Its range of Python versions.
        padding: Bytes of content besides.
        more: Further files by their paths, also in place of those that it has.
    """
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Python: {python}"] if python else []
    metadata += [f"Requires-Dist: {need}" for need in requires]
    texts: dict[str, str | bytes] = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join([*metadata, ""]),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        **(more or {}),
    }
    files = {path: text if isinstance(text, bytes) else text.encode() for path, text in texts.items()}
    if padding:
        files[f"{module}/data.bin"] = hashlib.sha256(name.encode()).digest() * (padding // 32)
    record = "".join(f"{path},sha256={_record_hash(content)},{len(content)}\n" for path, content in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in files.items():
            archive.writestr(zipfile.ZipInfo(path), content)
    return f"{module}-{version}-{tag}.whl", buffer.getvalue()


def _record_hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that stops a download closes its connections; this is expected.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        site, path = self.site, self.path.partition("?")[0]
        site.requests[path] += 1
        site.tokens.append(self.headers.get("Authorization"))
        if site.faults.wants and self.headers.get("Authorization") != site.faults.wants:
            self._answer(401, b"")
        elif site.faults.accepted and "/resolve/" in path and self.headers.get("Authorization") != site.faults.accepted:
            self._answer(403 if self.headers.get("Authorization") else 401, b"", {"X-Error-Code": "GatedRepo"})
        elif codes := site.faults.status.get(path):
            self._answer(codes.pop(0), b"not now")
        elif path in site.faults.endless and self.command == "GET":
            self._repeat(site.content[path], site.faults.endless[path])
        elif path in site.content:
            self._serve(path, site.content[path])
        else:
            self._answer(404, b"")

    def _serve(self, path: str, content: bytes) -> None:
        site = self.site
        asked = self.headers.get("Range")
        status, extra = 200, {}
        if asked and not site.faults.no_range:
            site.ranges.append(asked)
            start, _, stop = asked.removeprefix("bytes=").partition("-")
            first = int(start) if start else max(0, len(content) - int(stop))
            last = int(stop) if start and stop else len(content) - 1
            if first >= len(content):
                self._answer(416, b"")
                return
            extra = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            status, content = 206, content[first : last + 1]
        cuts = site.faults.cut_after.get(path)
        self._answer(status, content, extra, cut=cuts.pop(0) if cuts and self.command == "GET" else None)

    def _repeat(self, content: bytes, pause_s: float) -> None:
        self.close_connection = True
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(content)
            time.sleep(pause_s)

    def _answer(self, status: int, content: bytes, extra: dict[str, str] | None = None, cut: int | None = None) -> None:
        self.send_response(status)
        page = "application/vnd.pypi.simple.v1+json" if content.startswith(b"{") else "text/html"
        kind = page if self.path.endswith("/") else "application/octet-stream"
        kind = "application/json" if "/api/" in self.path else kind
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = content if cut is None else content[:cut]
        self.site.sent[self.path.partition("?")[0]] += len(body)
        self.wfile.write(body)
        if cut is not None:
            self.close_connection = True
