"""Ask an endpoint of this host, and hand on its answers as they arrive.

    python3 -c THIS FILE < LINES

The first line names the endpoint: {"url", "model" (the first one where null), "key_file", "key_pattern"}. Each further line is a
request: {"messages", "max_tokens"}. An answer is one or more lines {"thinks"}, {"text"} or {"cut"}, then {"end": true} or {"error"}. The end
of the input ends the program. Standard library only. The API key is read here and never printed.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import ssl
import sys
import threading
from pathlib import Path
from typing import Any, Iterator
from urllib.parse import urlsplit

TIMEOUT_S = 300.0
"""Seconds: the first answer of a large model may wait for kernels that are compiled on first use."""


class RefusedError(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server answered {status}: {text}")
        self.lacks_template = status == 400 and "chat template" in text.lower()


def ask(endpoint: dict[str, Any], path: str, body: dict[str, Any] | None = None) -> http.client.HTTPResponse:
    """Send a request.

    Raises:
        OSError: The server does not answer, or the key cannot be read.
        RefusedError: It answers with an error.
    """
    url = urlsplit(endpoint["url"])
    headers = {"Content-Type": "application/json"}
    if endpoint["key_file"]:
        found = re.search(endpoint["key_pattern"], Path(endpoint["key_file"]).read_text(), re.MULTILINE)
        headers["Authorization"] = f"Bearer {found[1] if found else ''}"
    if url.scheme == "https":
        # The connection does not leave this host, and the certificate may be of another name.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            url.hostname or "", url.port, timeout=TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
    connection.request(
        "GET" if body is None else "POST", f"{url.path}{path}", json.dumps(body) if body else None, headers
    )
    response = connection.getresponse()
    if response.status != 200:
        raise RefusedError(response.status, " ".join(response.read(2000).decode(errors="replace").split()))
    return response


def answer(endpoint: dict[str, Any], request: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Yield the parts of an answer by their kind; a model without a chat template completes the last message."""
    endpoint["model"] = endpoint["model"] or json.loads(ask(endpoint, "/models").read())["data"][0]["id"]
    common = {"model": endpoint["model"], "max_tokens": request["max_tokens"], "stream": True}
    try:
        response = ask(endpoint, "/chat/completions", {**common, "messages": request["messages"]})
    except RefusedError as error:
        if not error.lacks_template:
            raise
        response = ask(endpoint, "/completions", {**common, "prompt": request["messages"][-1]["content"]})
    for raw in response:
        line = raw.decode(errors="replace").strip()
        if line.startswith("data:") and line != "data: [DONE]":
            event = json.loads(line[5:])
            if "error" in event:
                raise RefusedError(200, str(event["error"]))
            for choice in event.get("choices", ()):
                delta = choice.get("delta", {})
                if thought := delta.get("reasoning") or delta.get("reasoning_content"):  # the older name
                    yield {"thinks": thought}
                if text := choice.get("text") or delta.get("content"):
                    yield {"text": text}
                if choice.get("finish_reason") == "length":
                    yield {"cut": f"after {request['max_tokens']} tokens, --max-tokens allows more"}


def listen(lines: queue.SimpleQueue[str]) -> None:
    """Pass lines on; when the input ends, nobody waits for an answer any more."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def put(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=listen, args=(lines,), daemon=True).start()
    endpoint = json.loads(lines.get())
    while True:
        request = json.loads(lines.get())
        try:
            for part in answer(endpoint, request):
                put(part)
            put({"end": True})
        except (OSError, http.client.HTTPException, RefusedError, ValueError, LookupError) as error:
            put({"error": str(error) or repr(error)})


if __name__ == "__main__":
    main()
