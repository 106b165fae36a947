"""The health agent: it looks at the engine of its host, answers HAProxy's agent checks, and asks the watchdog for a restart.

Nothing is read from a connection. What is asked of the watchdog is a file with the reason, which exists as long as the reason does.
"""

from __future__ import annotations

import argparse
import os
import socket
import socketserver
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from provision.phases.serve.onhost.shared.engine import Server, processes, table

from .evaluation import UP, Evaluator, Look

SEND_S = 1.0


class Listener(socketserver.TCPServer):
    """Answers each connection with the newest word, and closes it."""

    allow_reuse_address = True

    def __init__(self, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.word = UP
        super().__init__((address, port), Answer)

    def handle_error(self, *_: object) -> None:
        """Report nothing of a connection that its other end closed."""


class Answer(socketserver.BaseRequestHandler):
    """One connection."""

    server: Listener

    def handle(self) -> None:
        """Send the word."""
        self.request.settimeout(SEND_S)
        self.request.sendall(self.server.word.encode() + b"\n")


def look(server: Server, paths: list[Path], known: dict[str, Any]) -> Look:
    """Look at the engine once. Raises ConnectionRefusedError where none listens."""
    progress, values = server.figures(known["metrics"])
    asked = {"is_asked": server.is_asked, "answers": server.answers, "failures": server.failures}
    seen: dict[str, Any] = {**values, **asked, **vars(processes(paths, known["titles"]))}
    return Look(at=time.monotonic(), progress=progress, **seen)


def ask_for_restart(request: Path, reason: str | None) -> None:
    """Ask the watchdog for a restart, or no longer."""
    if reason is None:
        request.unlink(missing_ok=True)
    elif not request.exists():
        new = request.with_suffix(".new")
        # On a full disk the file stays empty, which the watchdog takes for a request without a reason.
        with suppress(OSError):
            new.write_text(f"{reason}\n", encoding="utf-8")
        with suppress(OSError):
            new.replace(request)


def run(
    server: Server, listener: Listener | None, request: Path | None, paths: list[Path], known: dict[str, Any]
) -> None:
    """Look at the engine again and again."""
    evaluator = Evaluator(known["limits"], known["restart"])
    said, asked_at = "up", 0.0
    while True:
        started = time.monotonic()
        try:
            evaluator.see(look(server, paths, known))
        except ConnectionRefusedError:
            # Whether a server listens is what HAProxy sees itself.
            evaluator.forget()
        word = evaluator.word()
        if word.startswith("down") != said.startswith("down"):
            sys.stderr.write(f"{word.replace(' #', ': ')}\n")
            sys.stderr.flush()
        said = word
        if listener is not None:
            listener.word = word
        if request is not None:
            ask_for_restart(request, evaluator.hang())
        if started - asked_at >= known["limits"]["ask_s"] and evaluator.wants_question():
            asked_at = started
            server.ask()
        time.sleep(max(known["limits"]["look_s"] - (time.monotonic() - started), 0.0))


def main() -> None:
    """Run until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", help="address at which gateways ask it; default: none asks")
    parser.add_argument("--port", type=int)
    parser.add_argument("--request", type=Path, help="file by which it asks for a restart; default: it asks for none")
    parser.add_argument("--engine-address", required=True)
    parser.add_argument("--engine-port", type=int, required=True)
    parser.add_argument("--unit", required=True)
    parser.add_argument("--processes", help="file with the engine's process numbers; default: that of the unit")
    options = parser.parse_args()
    known = {**table("engine"), **table("health", __package__)}
    groups = [options.processes] if options.processes else known["processes"]["groups"]
    key = os.environ.get("VLLM_API_KEY")
    limits = known["limits"] = {**known["limits"], **({} if options.listen else known["alone"])}
    server = Server(
        options.engine_address, options.engine_port, key, answer_s=limits["answer_s"], patience_s=limits["patience_s"]
    )
    paths = [Path(group.format(unit=options.unit)) for group in groups]
    if options.listen is None:
        run(server, None, options.request, paths, known)
        return
    with Listener(options.listen, options.port) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        run(server, listener, options.request, paths, known)
