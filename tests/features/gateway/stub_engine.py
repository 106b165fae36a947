"""A server like vLLM's, for the gateway's tests: `python3 stub_engine.py NAME ADDRESS PORT KEY [PROCESSES]`. Standard library only.

With PROCESSES tokens are made by another process, as vLLM's engine is one, and the numbers of both are written to that file.

`POST /stub` sets its mode: `mode` is ok, refuse (400), fail (500), busy (503), hang (no answer, though /health is fine), break (ends a stream
after two tokens), work (a token takes 6 seconds of computing) or stepwise (each token of a stream waits for a POST to /stub/step).
In mode no_tokens it refuses to give the tokens of a prompt (403), as vLLM does without `--enable-scale-out`.
`GET /stub` returns the requests that came. `POST /stub/usage` sets the tokens of clients that it says it has counted.
"""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKENS = 5
PROCESS = """
import sys, time
for line in sys.stdin:
    until = time.monotonic() + float(line)
    while time.monotonic() < until:
        pass
    print(flush=True)
"""
WORK_S = 6
STATUS = {"refuse": 400, "fail": 500, "busy": 503}


class Engine(ThreadingHTTPServer):
    """The state shared by all requests."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str, address: str, port: int, key: str, processes: str | None = None) -> None:
        super().__init__((address, port), Handler)
        self.tokens = self.running = 0
        self.computing = threading.Lock()
        self.process: subprocess.Popen[str] | None = None
        if processes is not None:
            self.process = subprocess.Popen(
                ["VLLM::EngineCore", "-I", "-S", "-c", PROCESS],
                executable=sys.executable,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            Path(processes).write_text(f"{os.getpid()}\n{self.process.pid}\n")
        self.name, self.key, self.mode = name, key, "ok"
        self.steps = threading.Semaphore(0)
        self.seen: list[dict[str, Any]] = []
        self.usage = ""

    def make_token(self) -> None:
        """Let the engine's process make a token, where there is one."""
        self.running += 1
        with self.computing:
            if self.process is not None and self.process.stdin is not None and self.process.stdout is not None:
                self.process.stdin.write(f"{WORK_S if self.mode == 'work' else 0}\n")
                self.process.stdin.flush()
                self.process.stdout.readline()
            self.tokens += 1
        self.running -= 1

    def metrics(self) -> str:
        """Return metrics under vLLM's names."""
        values = {
            "generation_tokens_total": self.tokens,
            "num_requests_running": min(self.running, 1),
            "num_requests_waiting": max(self.running - 1, 0),
            "kv_cache_usage_perc": 0.0,
        }
        return "".join(f'vllm:{name}{{engine="0",model_name="m"}} {value}\n' for name, value in values.items())

    def handle_error(self, *_: object) -> None:
        """Report nothing about a client that closed its connection."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Engine
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        """Answer requests that read."""
        if self.path == "/stub":
            self.answer(200, {"seen": self.server.seen})
        elif self.path == "/firstlight/usage":
            is_known = self.headers.get("Authorization") == f"Bearer {self.server.key}"
            self.send(200 if is_known else 401, "text/plain", self.server.usage.encode() if is_known else b"")
        elif self.path == "/health":
            self.answer(200, {})
        elif self.path == "/metrics" and self.server.process is not None:
            self.send(200, "text/plain; version=0.0.4", self.server.metrics().encode())
        else:
            self.serve({})

    def do_POST(self) -> None:
        """Answer requests that compute."""
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        if self.path == "/stub":
            self.server.mode = body["mode"]
            self.answer(200, {})
        elif self.path == "/stub/usage":
            self.server.usage = body["usage"]
            self.answer(200, {})
        elif self.path == "/stub/step":
            self.server.steps.release()
            self.answer(200, {})
        else:
            self.serve(body)

    def serve(self, body: dict[str, Any]) -> None:
        """Answer according to the mode."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append({"route": f"{self.command} {self.path}", "headers": headers, "body": body})
        if headers.get("authorization") != f"Bearer {self.server.key}":
            self.answer(401, {"error": "Unauthorized"})
        elif self.server.mode == "hang":
            threading.Event().wait()
        elif self.server.mode in STATUS:
            self.answer(STATUS[self.server.mode], {"error": {"message": self.server.mode}})
        elif self.path.endswith("/render") and self.server.mode == "no_tokens":
            self.answer(403, {"error": {"message": "Scale-out endpoints are disabled."}})
        elif self.path.endswith("/render"):
            texts = [str(one.get("content")) for one in body.get("messages", [])] or [str(body.get("prompt"))]
            tokens: Any = {"token_ids": [*"".join(texts).encode()]}
            self.answer(200, tokens if "messages" in body else [tokens])
        elif body.get("stream"):
            self.stream(body)
        elif self.path == "/v1/models":
            self.answer(200, {"data": [{"id": "m"}]})
        else:
            self.server.make_token()
            choice = {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": self.server.name},
            }
            self.answer(200, {**self.completion(body), "object": "chat.completion", "choices": [choice]})

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the common part of every answer."""
        return {"id": "stub", "created": 0, "model": body.get("model", "")}

    def stream(self, body: dict[str, Any]) -> None:
        """Send tokens one by one."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(TOKENS):
            if self.server.mode == "stepwise":
                self.server.steps.acquire()
            if self.server.mode == "break" and number == 2:
                self.close_connection = True
                return
            self.server.make_token()
            choice = {"index": 0, "finish_reason": None, "delta": {"role": "assistant", "content": f"{number} "}}
            self.chunk(json.dumps({**self.completion(body), "object": "chat.completion.chunk", "choices": [choice]}))
        self.chunk("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def chunk(self, text: str) -> None:
        """Send one event."""
        data = f"data: {text}\n\n".encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def answer(self, status: int, document: Any) -> None:
        """Send one document."""
        self.send(status, "application/json", json.dumps(document).encode())

    def send(self, status: int, kind: str, data: bytes) -> None:
        """Send one answer of a content type."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    Engine(sys.argv[1], sys.argv[2], int(sys.argv[3]), *sys.argv[4:6]).serve_forever()
