"""A host that hands on files, or gets them: `python3 peer.py grant | serve | revoke | fetch | host | path`. Standard library only.

`grant` allows a key to run `serve` here, and nothing else, until its input ends: with the run, with the controller, or with the
connection. `serve` sends files of the incoming folder that were verified there, asked for by their hash. `revoke` removes what a host
left that lost its power.

`fetch` gets files from such a host, `host` from package indexes and a model hub, `path` from a folder that this host has. All come under
the names in transfer; their hashes are checked afterwards, as those of files that the controller sends. The end of the input ends them.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

OWN = Path(__file__).resolve().parent
"""Folder of this program, inside of the incoming folder; it is gone when nothing is handed on or fetched."""
INCOMING = OWN.parent
LEDGER = INCOMING / ".arrived"
MARK = "firstlight-peers"
"""Second but last word of our lines in authorized_keys; the last says whether the file is ours too."""
PIECE = 1 << 20
REPORT_EVERY_S = 0.5
SILENCE_S = 15.0
"""Of a server. The controller breaks off after a minute without a word."""
AT_ONCE = 4
"""Files that are fetched at a time."""
TRIES = 2
LONGEST_PAGE = 64 << 20
UNEXPECTED = (OSError, ValueError, KeyError, TypeError, AttributeError, http.client.HTTPException)
"""What a server can cause that breaks off, or answers in another form."""
LATE = (TimeoutError, socket.timeout)  # two classes before Python 3.10


class SourceError(Exception):
    """A file cannot be had."""


def main(word: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    if word in ("grant", "serve", "revoke"):
        {"grant": grant, "serve": serve, "revoke": revoke}[word]()
    else:
        get({"fetch": fetch, "host": host, "path": path}[word])


def grant() -> None:
    """Allow the run's key for as long as the input is open."""
    request = json.loads(sys.stdin.readline())
    # in the host's own time, which may differ from the controller's
    until = time.strftime("%Y%m%d%H%M%S", time.localtime(time.time() + request["seconds"]))
    command = " ".join(map(shlex.quote, (sys.executable, "-I", str(OWN / "peer.py"), "serve")))
    try:
        remove_lines()
        add_line(f'restrict,expiry-time="{until}",command="{command}" {request["key"]}')
    except OSError as error:
        say(f"{error.filename}: {error.strerror}")
    else:
        say("granted")
        sys.stdin.read()
    finally:
        revoke()


def revoke() -> None:
    """Remove the key's line and this folder."""
    with contextlib.suppress(OSError):  # a file that cannot be written has no line of ours either
        remove_lines()
    shutil.rmtree(str(OWN), ignore_errors=True)


def keys_file() -> Path:
    """Return the login's authorized_keys, where it really lies."""
    return (Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "authorized_keys").resolve()


def add_line(line: str) -> None:
    path = keys_file()
    is_new = not path.exists()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = "" if is_new else path.read_text(encoding="utf-8", errors="surrogateescape")
    start = "" if not text or text.endswith("\n") else "\n"
    replace(path, f"{text}{start}{line} {MARK} {'new' if is_new else 'added'}\n")


def remove_lines() -> None:
    """Remove all lines of runs, and a file that a run has made."""
    path = keys_file()
    try:
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True)
    except FileNotFoundError:
        return
    ours = [line for line in lines if line.split()[-2:-1] == [MARK]]
    kept = [line for line in lines if line not in ours]
    if not kept and any(line.split()[-1] == "new" for line in ours):
        path.unlink()
        with contextlib.suppress(OSError):  # other files are there
            path.parent.rmdir()
    elif ours:
        replace(path, "".join(kept))


def replace(path: Path, text: str) -> None:
    """Write a file at once, with the mode of the one before."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    descriptor, name = tempfile.mkstemp(dir=str(path.parent), prefix=".authorized_keys.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise


def serve() -> None:
    """Send files: each line of the input is a hash and the number of bytes that are there already."""
    names = {}
    for line in LEDGER.read_text(encoding="utf-8").splitlines():
        sha256, _, _, name = line.split(" ", 3)
        names[sha256] = name
    for line in sys.stdin:
        sha256, _, offset = line.strip().partition(" ")
        if sha256 not in names or not offset.isdigit():
            sys.exit(f"no verified file here has the hash {sha256[:64]!r}")
        with (INCOMING / names[sha256]).open("rb") as file:
            file.seek(int(offset))
            shutil.copyfileobj(file, sys.stdout.buffer, PIECE)
        sys.stdout.flush()


def get(source: Callable[[dict[str, Any], Report], None]) -> None:
    """Get the files of the request from a source, and report bytes and problems to the controller."""
    os.umask(0o077)
    report = Report()
    try:
        request = json.loads(sys.stdin.readline())
        threading.Thread(target=end_with_input, daemon=True).start()
        source(request, report)
        report.tell()
        say(json.dumps({"done": True}))
    except (OSError, SourceError) as error:
        report.tell()
        say(json.dumps({"problem": str(error)}))
    finally:
        shutil.rmtree(str(OWN), ignore_errors=True)


def fetch(request: dict[str, Any], report: Report) -> None:
    """Get files from a host that serves them."""
    for name in ("key", "known_hosts"):
        with os.fdopen(os.open(str(OWN / name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(request[name])
    options = ["-i", str(OWN / "key"), "-o", f"UserKnownHostsFile={OWN / 'known_hosts'}"]
    command, pipe = ["ssh", *options, *request["ssh"], "serve"], subprocess.PIPE
    with tempfile.TemporaryFile() as errors:
        # without buffers: what could not be written would be written again when the pipe is closed, and fail there
        with subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=errors) as process:
            try:
                problem = receive(process, request["files"], report)
            finally:
                process.kill()
        if problem:
            errors.seek(0)
            said = errors.read(4096).decode(errors="replace").split("\n")
            raise SourceError(" / ".join(line.strip() for line in said if line.strip()) or problem)


def receive(process: subprocess.Popen[bytes], files: list[dict[str, Any]], report: Report) -> str:
    """Write each file under its name in transfer; return what went wrong."""
    assert process.stdin is not None
    assert process.stdout is not None
    for file in files:
        # a host that broke off may have sent bytes before; reading finds the end
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{file['sha256']} {file['offset']}\n".encode())
            process.stdin.flush()
        try:
            save(process.stdout, file, report)
        except SourceError as error:
            return str(error)
    return ""


def host(request: dict[str, Any], report: Report) -> None:
    """Fetch files from indexes and a hub."""
    client = Client(request)

    def try_fetch(file: dict[str, Any]) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                client.fetch(file, report)
            except (*UNEXPECTED, SourceError) as error:
                if attempt == TRIES:
                    report.lack(file["sha256"], plain(describe(error)))
            else:
                return

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(try_fetch, request["files"]))


def path(request: dict[str, Any], report: Report) -> None:
    """Copy files from a folder."""
    for file in request["files"]:
        try:
            copy(place(Path(request["folder"]), file), file, report)
        except (OSError, SourceError) as error:
            report.lack(file["sha256"], str(error))


def place(folder: Path, file: dict[str, Any]) -> Path:
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


def copy(source: Path, file: dict[str, Any], report: Report) -> None:
    with source.open("rb") as content:
        content.seek(file["offset"])
        save(content, file, report)


def save(source: IO[bytes], file: dict[str, Any], report: Report, *, again: bool = False) -> None:
    """Write the rest of a file under its name in transfer; `again`: the source begins at the first byte."""
    with (INCOMING / file["part"]).open("wb" if again or not file["offset"] else "ab") as target:
        at = target.seek(0, os.SEEK_END)
        # two runs cannot be here at once, but a file may have been removed since it was listed
        if at != (0 if again else file["offset"]):
            raise SourceError(f"{file['part']} was changed during the transfer")
        try:
            while at < file["size"]:
                block = source.read(min(PIECE, file["size"] - at))
                if not block:
                    raise SourceError(f"{file['part']} ended after {at} of {file['size']} bytes")
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
        self._logins = [
            (parts, login) for url in self._indexes if (login := (parts := urlsplit(url)).netloc.rpartition("@")[0])
        ]
        self._silent: dict[str, str] = {}
        """By index that did not answer: why."""

    def fetch(self, file: dict[str, Any], report: Report) -> None:
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

    def _address(self, file: dict[str, Any]) -> str:
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
                if isinstance(error, LATE) or isinstance(getattr(error, "reason", None), LATE):
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
        # The files of an index ask for its login too. Each of one server may have another: the nearest one counts.
        near = {
            len(os.path.commonpath([f"/{index.path}", f"/{parts.path}"])): known
            for index, known in self._logins
            if (index.scheme, index.netloc.rpartition("@")[2]) == (parts.scheme, server)
        }
        login = login or (near[max(near)] if near else "")
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
            self.tell()

    def tell(self) -> None:
        with self._lock:
            if self._bytes:
                say(json.dumps({"bytes": self._bytes}))
            self._bytes, self._told = 0, time.monotonic()

    def lack(self, sha256: str, problem: str) -> None:
        with self._lock:
            say(json.dumps({"lacks": sha256, "why": problem}))


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the controller is gone
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def end_with_input() -> None:
    while os.read(0, PIECE):  # not sys.stdin, whose lock this thread would hold when the program ends
        pass
    shutil.rmtree(str(OWN), ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
