"""A client of a gateway on a booted host."""

import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any

from tests.fleet.hosts import FleetHost

CURRENT = "/opt/firstlight/gateway/current"


class Client:
    """A client that trusts the certificate of one gateway alone, or of those that share its address."""

    def __init__(
        self, gateway: FleetHost, key: str, *others: FleetHost, address: str = "", timeout_s: float = 60
    ) -> None:
        pem = "\n".join(each.sh(f"openssl x509 -in {CURRENT}/certificate.pem") for each in (gateway, *others))
        self.context = ssl.create_default_context(cadata=pem)
        self.base = f"https://{address or gateway.address}:8443"
        self.key = key
        self.timeout_s = timeout_s

    def chat(self, model: str = "stub", **body: Any) -> tuple[int, str]:
        """Return status and text of the answer, the host's name where a stub serves; status 0 where nobody answered."""
        content = json.dumps({"model": model, "messages": [], **body}).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.base}/v1/chat/completions", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s, context=self.context) as response:
                document = json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, ""
        except (OSError, HTTPException):
            return 0, ""
        return 200, document["choices"][0]["message"]["content"]


@contextmanager
def repeated(
    ask: Callable[[], tuple[int, str]], *, workers: int = 1, every_s: float = 0
) -> Iterator[list[tuple[int, str]]]:
    """Ask again and again while the block runs, in so many threads; the list has the answers until then."""
    ended, answers = threading.Event(), list[tuple[int, str]]()

    def load() -> None:
        while not ended.wait(every_s):
            answers.append(ask())

    threads = [threading.Thread(target=load) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def keys(gateway: FleetHost) -> dict[str, str]:
    """Return the key of each client; only root can read the files with keys."""
    files = " ".join(f"{CURRENT}/{name}" for name in ("clients.map", "hosts.map", "served.json"))
    assert gateway.sh(f"stat -L -c '%U %a' {files}") == "root 600\n" * 3
    lines = gateway.sh(f"cat {CURRENT}/clients.map").splitlines()
    return {name: key for key, name in (line.split() for line in lines)}
