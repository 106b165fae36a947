"""A package index on this machine that hands on the files of the user's own indexes, and counts what each client got."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, cast

from provision.catalog.index.http_client import open_client
from provision.catalog.index.local_path import local_path
from provision.catalog.index.project_page import IndexFile, IndexLocation, fetch_page
from provision.catalog.index.settings import read_settings
from provision.catalog.index.sources import find_sources

PIECE = 1 << 20


class Registry(ThreadingHTTPServer):
    """The index, at an address of this machine."""

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), _Handler)
        self.address = address
        self._settings = read_settings()
        found = find_sources(self._settings)
        self._locations = [IndexLocation(url) for url in found.indexes]
        self._locations += [IndexLocation(url, flat=True) for url in found.find_links]
        self._files: dict[str, str] = {}
        self._lock = threading.Lock()
        self.bytes: Counter[str] = Counter()
        """Bytes of pages and files by the client's address."""

    @property
    def url(self) -> str:
        """The address of the index."""
        return f"http://{self.address}:{self.server_port}/simple"

    def page(self, package: str) -> bytes:
        """Return the list of the files of a package at all locations; of two with one name, the first."""
        files: dict[str, dict[str, Any]] = {}
        with open_client(self._settings) as client:
            for location in self._locations:
                for file in fetch_page(client, location, package).files:
                    if file.name.lower().replace("_", "-").replace(".", "-").startswith(f"{package}-"):
                        files.setdefault(file.name, self._listed(location, file))
        return json.dumps({"meta": {"api-version": "1.0"}, "name": package, "files": [*files.values()]}).encode()

    def _listed(self, location: IndexLocation, file: IndexFile) -> dict[str, Any]:
        address = file.url or str(Path(location.url.removeprefix("file://")) / file.name)
        sha256 = file.sha256
        if not sha256 and (path := local_path(address)):
            sha256 = _sha256(path)
        with self._lock:
            self._files[file.name] = address
        hashes = {"sha256": sha256} if sha256 else {}
        return {"filename": file.name, "url": f"/files/{file.name}", "hashes": hashes, "core-metadata": file.metadata}

    @contextmanager
    def file(self, name: str, asked: str) -> Iterator[tuple[int, dict[str, str], Iterator[bytes]]]:
        """Open a file, or its metadata: status, headers and content."""
        address = self._files[name.removesuffix(".metadata")] + (".metadata" if name.endswith(".metadata") else "")
        if path := local_path(address):
            with path.open("rb") as content:
                size = path.stat().st_size
                begin, end = _range(asked, size)
                content.seek(begin)
                headers = {"Content-Length": str(end - begin), "Accept-Ranges": "bytes"}
                if asked:
                    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
                yield 206 if asked else 200, headers, _pieces(content, end - begin)
            return
        with (
            open_client(self._settings) as client,
            client.stream(
                "GET", address, headers={"Accept-Encoding": "identity"} | ({"Range": asked} if asked else {})
            ) as answer,
        ):
            kept = ("content-length", "content-range", "accept-ranges")
            yield (
                answer.status_code,
                {key: answer.headers[key] for key in kept if key in answer.headers},
                answer.iter_raw(PIECE),
            )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        registry, parts = cast("Registry", self.server), self.path.strip("/").split("/")
        if parts[0] == "simple":
            content = registry.page(parts[1])
            self._answer(
                200,
                {"Content-Type": "application/vnd.pypi.simple.v1+json", "Content-Length": str(len(content))},
                iter([content]),
            )
        else:
            with registry.file(parts[1], self.headers.get("Range", "")) as (status, headers, pieces):
                self._answer(status, headers, pieces)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, headers: dict[str, str], pieces: Iterator[bytes]) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        for piece in pieces if self.command == "GET" else ():
            self.wfile.write(piece)
            cast("Registry", self.server).bytes[self.client_address[0]] += len(piece)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def registry_at(address: str) -> Iterator[Registry]:
    """Serve the user's indexes at an address of this machine."""
    with Registry(address) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@cache
def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _range(asked: str, size: int) -> tuple[int, int]:
    if not asked:
        return 0, size
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _pieces(content: IO[bytes], size: int) -> Iterator[bytes]:
    while size and (piece := content.read(min(PIECE, size))):
        size -= len(piece)
        yield piece
