"""A real Prometheus with rendered files, and servers that offer metrics, on loopback addresses of this machine."""

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.features.gateway.running import free_port
from tests.features.monitoring.programs import program
from tests.verify.served import served
from tests.waiting import PATIENCE_S, wait_until

ADDRESS = "127.0.9.1"


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, at: str) -> None:
        self.at = at

    def query(self, text: str, **more: str) -> list[dict[str, Any]]:
        """Return the result of a query."""
        return list(self.get("query", query=text, **more)["result"])

    def values(self, text: str) -> dict[str, float]:
        """Return the values of a query by their label `host`."""
        return {one["metric"].get("host", ""): float(one["value"][1]) for one in self.query(text)}

    def get(self, path: str, **words: str) -> Any:
        """Return the data of an answer of its API."""
        address = f"http://{self.at}/api/v1/{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(address, timeout=PATIENCE_S) as response:
            return json.load(response)["data"]


@contextmanager
def prometheus(folder: Path, files: Mapping[str, str], *options: str) -> Iterator[Prometheus]:
    """Run Prometheus with the files of a monitoring host; its data stay below the folder."""
    for name, text in files.items():
        (folder / name).write_text(text)
    at = f"{ADDRESS}:{free_port(ADDRESS)}"
    words = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*words, f"--web.listen-address={at}", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        server = Prometheus(at)
        wait_until(lambda: server.get("status/buildinfo") is not None, (folder / "prometheus.log").read_text())
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def offering(texts: Mapping[str, str], *, key: str | None = None) -> Iterator[str]:
    """Offer text at paths of a server, as an exporter does; with a key only to who has it. Yields its address and port."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            """Answer with the text of the path."""
            text = texts.get(self.path)
            is_stranger = key is not None and self.headers.get("Authorization") != f"Bearer {key}"
            self.send_response(401 if is_stranger else 404 if text is None else 200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(b"" if is_stranger else (text or "").encode())

    with served(ThreadingHTTPServer((ADDRESS, 0), Handler)) as server:
        yield f"{ADDRESS}:{server.server_port}"
