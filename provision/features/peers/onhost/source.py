"""A host that gets files by itself: `python3 source.py host | path`. Standard library only.

`host` fetches from package indexes and a model hub, `path` copies from a folder that the host has, both under the names in transfer;
hashes are checked afterwards, as those of files that the controller sends. What does not come is named, and nothing else is lost by it. The
end of the input ends the program.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

OWN = Path(__file__).resolve().parent
"""Folder of this program, inside of the incoming folder; it is gone when the program has ended."""
INCOMING = OWN.parent
PIECE = 1 << 20
REPORT_EVERY_S = 0.5
SILENCE_S = 15.0
"""Of a server. The controller breaks off after a minute without a word."""
AT_ONCE = 4
"""Files that are fetched at a time."""
TRIES = 2
LONGEST_PAGE = 64 << 20

File = dict[str, Any]
UNEXPECTED = (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException)
"""What a server can cause that breaks off, or answers in another form."""


class SourceError(Exception):
    """A file cannot be had."""


def main(word: str) -> None:
    os.umask(0o077)
    try:
        request = json.loads(sys.stdin.readline())
        threading.Thread(target=end_with_input, daemon=True).start()
        report = Report()
        {"host": host, "path": path}[word](request, report)
        report.tell()
        say({"done": True})
    except (OSError, SourceError) as error:
        say({"problem": str(error)})
    finally:
        shutil.rmtree(str(OWN), ignore_errors=True)


def host(request: dict[str, Any], report: Report) -> None:
    """Fetch files from indexes and a hub."""
    client = Client(request)

    def fetch(file: File) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                client.fetch(file, report)
            except (*UNEXPECTED, SourceError) as error:
                if attempt == TRIES:
                    report.lack(file["sha256"], plain(describe(error)))
            else:
                return

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch, request["files"]))


def path(request: dict[str, Any], report: Report) -> None:
    """Copy files from a folder."""
    for file in request["files"]:
        try:
            copy(place(Path(request["folder"]), file), file, report)
        except (OSError, SourceError) as error:
            report.lack(file["sha256"], str(error))


def place(folder: Path, file: File) -> Path:
    """Return where a folder has a file: under its name, or as the controller's cache has it, under its hash."""
    name, sha256 = str(file["name"]), str(file["sha256"])
    kept = folder / "files" / sha256[:2] / sha256
    names = [folder / name, kept / name.replace("/", "--")]
    found = next((name for name in names if name.is_file()), None)
    if found is None:
        raise SourceError(f"{folder} does not have {name}")
    if found.stat().st_size != file["size"]:
        raise SourceError(f"{found} has {found.stat().st_size} bytes, not {file['size']}")
    return found


def copy(source: Path, file: File, report: Report) -> None:
    with source.open("rb") as content:
        content.seek(file["offset"])
        save(content, file, report)


def save(source: io.BufferedIOBase, file: File, report: Report, *, again: bool = False) -> None:
    """Write the rest of a file under its name in transfer; `again`: the source begins at the first byte."""
    part = INCOMING / file["part"]
    with part.open("wb" if again or not file["offset"] else "ab") as target:
        at = target.seek(0, os.SEEK_END)
        if at != (0 if again else file["offset"]):
            raise SourceError(f"{file['part']} was changed during the transfer")
        try:
            while at < file["size"]:
                block = source.read1(min(PIECE, file["size"] - at))
                if not block:
                    raise SourceError(f"{file['name']} ended after {at} of {file['size']} bytes")
                target.write(block)
                at += len(block)
                report.add(len(block))
        finally:
            file["offset"] = at


class Client:
    """The indexes and the hub of a request."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._indexes: list[str] = request["indexes"]
        self._hub = (request["hub"] or os.environ.get("HF_ENDPOINT") or request["default_hub"]).rstrip("/")
        logins = [(urlsplit(url).scheme, urlsplit(url).netloc.rpartition("@")) for url in self._indexes]
        self._logins = {(scheme, server): login for scheme, (login, _, server) in logins}
        self._silent: dict[str, str] = {}
        """By index that did not answer: why."""

    def fetch(self, file: File, report: Report) -> None:
        """Get a file. Raises OSError, ValueError, SourceError."""
        if file["hub_path"]:
            address, headers = f"{self._hub}/{file['hub_path']}", hub_headers()
        else:
            address, headers = self._address(file), {}
        if (local := local_path(address)) is not None:
            copy(local, file, report)
            return
        if file["offset"]:
            headers["Range"] = f"bytes={file['offset']}-"
        with self._open(address, headers) as answer:
            save(answer, file, report, again=answer.status != 206)

    def _address(self, file: File) -> str:
        """Return the address of a wheel: that of the first index whose page has its name, and no other hash."""
        problems = []
        for url in self._indexes:
            package = re.sub(r"[-_.]+", "-", file["name"].partition("-")[0]).lower()
            page = f"{url.rstrip('/')}/{package}/"
            if url in self._silent:
                problems.append(f"{page}: {self._silent[url]}")
                continue
            try:
                address, sha256 = self._read_page(page).get(file["name"], ("", ""))
            except UNEXPECTED as error:
                problems.append(f"{page}: {describe(error)}")
                # Nobody waits for it again.
                if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
                    self._silent[url] = describe(error)
                continue
            if address and sha256 in ("", file["sha256"]):
                return address
            if address:
                problems.append(f"{page} has it with another SHA-256, {sha256}")
        raise SourceError("; ".join(problems) or f"no index has {file['name']}")

    def _read_page(self, address: str) -> dict[str, tuple[str, str]]:
        """Return address and hash by file name."""
        local = local_path(address)
        if local is not None:
            index = local / "index.html"
            if index.is_file():
                return linked(index.read_text(encoding="utf-8"), f"{local.as_uri()}/")
            return {entry.name: (entry.as_uri(), "") for entry in local.iterdir()} if local.is_dir() else {}
        try:
            with self._open(address, {"Accept": "text/html"}) as answer:
                return linked(answer.read(LONGEST_PAGE).decode(errors="replace"), answer.url)
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                return {}
            raise

    def _open(self, address: str, headers: dict[str, str]) -> Any:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https"):
            raise SourceError(f"{plain(address)} is no address of a server")
        login, _, server = parts.netloc.rpartition("@")
        # The files of an index ask for its login too.
        login = login or self._logins.get((parts.scheme, server), "")
        request = urllib.request.Request(urlunsplit(parts._replace(netloc=server)))  # noqa: S310 - checked above
        for name, value in headers.items():
            request.add_header(name, value) if name != "Authorization" else request.add_unredirected_header(name, value)
        if login:
            encoded = base64.b64encode(unquote(login).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {encoded}")
        return urllib.request.urlopen(request, timeout=SILENCE_S)  # noqa: S310 - as above


def local_path(address: str) -> Path | None:
    """Return the path of an address that begins with `file:///`; None for that of a server."""
    parts = urlsplit(address)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def hub_headers() -> dict[str, str]:
    """Return the headers for a hub: the host's own token, where it has one. It is not sent on where the hub redirects."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    token = os.environ.get("HF_TOKEN", "")
    with contextlib.suppress(OSError):
        file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
        token = token or file.read_text(encoding="ascii")
    return {"Authorization": f"Bearer {token.strip()}"} if token.strip() else {}


def linked(text: str, address: str) -> dict[str, tuple[str, str]]:
    """Return address and hash by name of the files that an HTML page links."""
    anchors = Anchors()
    anchors.feed(text)
    found = {}
    for link in anchors.links:
        url, fragment = urldefrag(urljoin(address, link))
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        found[name] = (url, fragment[7:] if fragment.startswith("sha256=") else "")
    return found


class Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]


def describe(error: Exception) -> str:
    """Return the text of an error; its kind too where the text alone says nothing."""
    return str(error) if isinstance(error, (OSError, SourceError)) else f"{type(error).__name__}: {error}"


def plain(text: str) -> str:
    """Remove credentials from addresses; a password may contain `@`."""
    return re.sub(r"(?<=://)[^/\s`'\"]+@", "***@", text)


class Report:
    """Reports received bytes, and files that did not come, to the controller."""

    def __init__(self) -> None:
        self._bytes = 0
        self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            if time.monotonic() - self._told >= REPORT_EVERY_S:
                self._tell()

    def lack(self, sha256: str, problem: str) -> None:
        with self._lock:
            say({"lacks": sha256, "why": problem})

    def tell(self) -> None:
        with self._lock:
            self._tell()

    def _tell(self) -> None:
        say({"bytes": self._bytes})
        self._bytes, self._told = 0, time.monotonic()


def say(record: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the controller is gone
        sys.stdout.write(f"{json.dumps(record)}\n")
        sys.stdout.flush()


def end_with_input() -> None:
    while os.read(0, PIECE):  # not sys.stdin, whose lock this thread would hold when the program ends
        pass
    shutil.rmtree(str(OWN), ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
