"""A small server with the part of vLLM's protocol that the proof needs, run as a process of its own.

    serving.py CONFIGURATION.json

The configuration contains its answers, so that the real proof gets correct and wrong ones.
"""

import itertools
import json
import math
import os
import random
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CONFIGURATION: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
QUESTIONS = itertools.count()
"""Requests for the health so far: during the first `unhealthy` ones the server is still starting, however slow this machine is."""


def write_proof() -> None:
    """Write what the plugin writes inside an engine, for this process."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    layer = {"implementation": "x.Impl", "dtype": CONFIGURATION.get("dtype", "bfloat16"), "device": "cuda:0"}
    layer["flash_attention_version"] = CONFIGURATION.get("generation")
    layer["flash_functions"] = CONFIGURATION.get("flash_functions")
    proof = {
        "pid": os.getpid(),
        "start_ticks": ticks + CONFIGURATION.get("ticks_off", 0),
        "layers": [
            {**layer, "name": f"layers.{number}", "backend": name}
            for number, name in enumerate(CONFIGURATION["backends"])
        ],
        "variables": CONFIGURATION.get("variables", {}),
        "problem": CONFIGURATION.get("problem"),
    }
    folder = Path(CONFIGURATION["prefix"]) / "run"
    (folder / f"attention-{os.getpid()}.json").write_text(json.dumps(proof))


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_arguments: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        healthy = next(QUESTIONS) >= CONFIGURATION.get("unhealthy", 0)
        self.send_response(200 if healthy else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers.get("Authorization") != f"Bearer {CONFIGURATION['key']}":
            self.reply(401, {"error": "Unauthorized"})
        elif self.path == "/v1/chat/completions":
            status = CONFIGURATION.get("chat_status", 200)
            refused = {"error": {"message": CONFIGURATION.get("chat_refused", "you must provide a chat template")}}
            self.reply(status, {"choices": []} if status == 200 else refused)
        elif "status" in CONFIGURATION:
            self.reply(
                CONFIGURATION["status"], {"error": {"message": "Out of range float values are not JSON compliant"}}
            )
        elif self.path == "/tokenize":
            self.reply(200, {"tokens": list(body["prompt"].encode())})
        elif self.path in ("/v1/embeddings", "/v1/score"):
            self.vectors(body)
        elif "prompt_logprobs" in body:
            self.forced(body["prompt"], CONFIGURATION.get("adapters", {}).get(body["model"], CONFIGURATION["forced"]))
        else:
            if CONFIGURATION.get("stopped_at") == "question":
                os.kill(os.getpid(), signal.SIGSTOP)
                # This thread may run on for a moment.
                time.sleep(60)
            self.stream(body["prompt"])

    def forced(self, prompt: list[int] | str, values: list[float]) -> None:
        ids = prompt if isinstance(prompt, list) else list(prompt.encode())
        values = [-3.0] * (len(ids) - len(values)) + values
        entries = [{str(token): {"logprob": value, "rank": 1}} for token, value in zip(ids, values, strict=True)]
        self.reply(200, {"choices": [{"prompt_logprobs": [None, *entries[1:]]}]})

    def vectors(self, body: dict[str, Any]) -> None:
        """Each text has a vector of length 1, a pair a score; `differs` names what they depend on besides, or `relevant` alone."""
        texts = body.get("input") or [f"{one} {two}" for one, two in zip(body["text_1"], body["text_2"], strict=True)]
        differs = CONFIGURATION.get("differs", "")
        others = {"batch": str(len(texts)), "adapter": body["model"].removeprefix("qwen3")}.get(differs, differs)
        entries = []
        for number, text in enumerate(texts):
            source = random.Random(others if differs == "nothing" else text + others)
            vector = [source.uniform(-1, 1) for _ in range(8)]
            length = math.hypot(*vector) / CONFIGURATION.get("length", 1.0)
            score = abs(vector[0]) * (0.00001 if differs == "relevant" and "saw" not in text else 1.0)
            entries.append({"index": number, "embedding": [value / length for value in vector], "score": score})
        self.reply(200, {"data": entries[::-1]})

    def stream(self, prompt: list[int] | str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        logprobs = CONFIGURATION.get("long_logprobs", []) if len(prompt) > 1000 else []
        for token, logprob in zip(CONFIGURATION["tokens"], logprobs or CONFIGURATION["logprobs"], strict=True):
            part = {"text": "", "logprobs": {"tokens": [f"token_id:{token}"], "token_logprobs": [logprob]}}
            self.wfile.write(f"data: {json.dumps({'choices': [part]})}\n\n".encode())
        if "breaks_off" in CONFIGURATION:
            self.wfile.write(b'data: {"error": {"message": "EngineCore encountered an issue.", "code": 500}}\n\n')
        self.wfile.write(b"data: [DONE]\n\n")

    def reply(self, status: int, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def main() -> None:
    if CONFIGURATION["backends"] or CONFIGURATION.get("problem"):
        write_proof()
    if "dies_after_s" in CONFIGURATION:
        time.sleep(CONFIGURATION["dies_after_s"])
        sys.exit(1)
    if CONFIGURATION.get("stopped_at") == "start":
        os.kill(os.getpid(), signal.SIGSTOP)
    ThreadingHTTPServer(("127.0.0.1", CONFIGURATION["port"]), Handler).serve_forever()


if __name__ == "__main__":
    main()
