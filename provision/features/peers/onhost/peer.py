"""A host that hands on files, or gets them: `python3 peer.py grant | serve | fetch | revoke`. Standard library only.

`grant` allows a key to run `serve` here, and nothing else, until its input ends: with the run, with the controller, or with the
connection. `serve` sends files of the incoming folder that were verified there, asked for by their hash. `fetch` gets files from such a
host; their hashes are checked afterwards, as those of files that the controller sends. `revoke` removes what a host left that lost its power.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

OWN = Path(__file__).resolve().parent
"""Folder of this program, inside of the incoming folder; it is gone when nothing is handed on."""
INCOMING = OWN.parent
LEDGER = INCOMING / ".arrived"
MARK = "firstlight-peers"
"""Second but last word of our lines in authorized_keys; the last says whether the file is ours too."""
PIECE = 1 << 20
REPORT_EVERY_S = 0.5


def main(word: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    {"grant": grant, "serve": serve, "fetch": fetch, "revoke": revoke}[word]()


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


def fetch() -> None:
    """Get files from a host that serves them, and report the bytes; the end of the input ends this too."""
    request = json.loads(sys.stdin.readline())
    try:
        for name in ("key", "known_hosts"):
            with os.fdopen(os.open(str(OWN / name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(request[name])
        options = ["-i", str(OWN / "key"), "-o", f"UserKnownHostsFile={OWN / 'known_hosts'}"]
        with tempfile.TemporaryFile() as errors:
            command = ["ssh", *options, *request["ssh"], "serve"]
            pipe = subprocess.PIPE
            # without buffers: what could not be written would be written again when the pipe is closed, and fail there
            with subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=errors) as process:
                threading.Thread(target=end_with_input, args=(process,), daemon=True).start()
                report = Report()
                try:
                    problem = receive(process, request["files"], report)
                finally:
                    process.kill()
                    report.tell()
            if problem:
                errors.seek(0)
                said = errors.read(4096).decode(errors="replace").split("\n")
                problem = " / ".join(line.strip() for line in said if line.strip()) or problem
        say(json.dumps({"problem": problem} if problem else {"done": True}))
    except OSError as error:
        say(json.dumps({"problem": str(error)}))
    finally:
        shutil.rmtree(str(OWN), ignore_errors=True)


def receive(process: subprocess.Popen[bytes], files: list[dict[str, Any]], report: Report) -> str:
    """Write each file under its name in transfer; return what went wrong."""
    assert process.stdin is not None
    assert process.stdout is not None
    for file in files:
        with contextlib.suppress(
            BrokenPipeError
        ):  # a host that broke off may have sent bytes before; reading finds the end
            process.stdin.write(f"{file['sha256']} {file['offset']}\n".encode())
            process.stdin.flush()
        with (INCOMING / file["part"]).open("ab" if file["offset"] else "wb") as part:
            # two runs cannot be here at once, but a file may have been removed since it was listed
            if part.seek(0, os.SEEK_END) != file["offset"]:
                return f"{file['part']} was changed during the transfer"
            if not copy(process.stdout, part, file["size"] - file["offset"], report):
                return "the connection was closed"
    return ""


def copy(source: IO[bytes], target: IO[bytes], size: int, report: Report) -> bool:
    """Copy exactly so many bytes; return whether all came."""
    while size:
        block = source.read(min(PIECE, size))
        if not block:
            return False
        target.write(block)
        size -= len(block)
        report.add(len(block))
    return True


class Report:
    """Reports the received bytes to the controller."""

    def __init__(self) -> None:
        self._bytes = 0
        self._told = time.monotonic()

    def add(self, count: int) -> None:
        self._bytes += count
        if time.monotonic() - self._told >= REPORT_EVERY_S:
            self.tell()

    def tell(self) -> None:
        if self._bytes:
            say(json.dumps({"bytes": self._bytes}))
        self._bytes, self._told = 0, time.monotonic()


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # the controller is gone
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def end_with_input(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, PIECE):  # not sys.stdin, whose lock this thread would hold when the program ends
        pass
    process.kill()


if __name__ == "__main__":
    main(sys.argv[1])
