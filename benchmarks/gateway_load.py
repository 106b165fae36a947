"""What a gateway costs a client, and whether it loses requests when it is reloaded.

    .venv/bin/python -m benchmarks.gateway_load [--requests 100000]

A real HAProxy with the gateway's files, keys and TLS stands before stub engines that answer at once. Streams are asked for in turn, directly and
through the gateway, for each of its ways to choose a host. Connections are kept; the time is that to the first token. Then clients that keep their
connections, as OpenAI's do, send requests while the gateway is reloaded every two seconds with another list of keys. Aim: 0.5 ms more in the median,
2 ms more at p99, none lost.
"""

from __future__ import annotations

import http.client
import itertools
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import header, parser, publish, quantile
from tests.features.gateway.running import KEY, Site, running
from tests.features.gateway.test_backends import make_certificate

AIM_P50_MS, AIM_P99_MS = 0.5, 2.0
PAIRS, WARM_UP = 2000, 100
CLIENTS = 8
RELOAD_EVERY_S = 2.0
PATH = "/v1/chat/completions"
BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


class Client:
    """A client with one connection, which it keeps."""

    def __init__(self, at: tuple[str, int], key: str, context: ssl.SSLContext | None = None) -> None:
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connection = http.client.HTTPConnection(*at, timeout=60)
        if context is not None:
            self._connection = http.client.HTTPSConnection(*at, timeout=60, context=context)

    def first_token_ms(self) -> float:
        """Return the milliseconds from the request to the first bytes of its stream."""
        started = time.perf_counter()
        self._connection.request("POST", PATH, json.dumps({**BODY, "stream": True}), self._headers)
        response = self._connection.getresponse()
        response.read1(1)
        passed = time.perf_counter() - started
        response.read()
        return passed * 1000

    def status(self) -> str:
        """Send a request; return its status, or the name of the error in its place."""
        try:
            self._connection.request("POST", PATH, json.dumps(BODY), self._headers)
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()  # the next request opens it again
            return type(error).__name__
        return str(response.status)


def measure_latency(site: Site, context: ssl.SSLContext) -> dict[str, Any]:
    """Return milliseconds to the first token, direct and through the gateway, and what the gateway adds."""
    stub = site.stubs["h1"]
    clients = {
        "direct": Client(stub.at, str(stub.backend.key)),
        "gateway": Client((site.gateway.bind, site.gateway.settings.gateway_port), KEY, context),
    }
    times: dict[str, list[float]] = {name: [] for name in clients}
    for _ in range(PAIRS + WARM_UP):
        for name, client in clients.items():
            times[name].append(client.first_token_ms())
    result = {name: _quantiles(sorted(values[WARM_UP:])) for name, values in times.items()}
    added = {name: round(value - result["direct"][name], 3) for name, value in result["gateway"].items()}
    return {"pairs": PAIRS, **result, "added": added}


def _quantiles(values: list[float]) -> dict[str, float]:
    return {"p50_ms": round(quantile(values, 0.5), 3), "p99_ms": round(quantile(values, 0.99), 3)}


def measure_reloads(site: Site, context: ssl.SSLContext, requests: int) -> dict[str, Any]:
    """Return how many of the requests were lost while the gateway was reloaded, by what came in place of an answer."""
    numbers = itertools.count()
    answers: Counter[str] = Counter()
    lock = threading.Lock()

    def work() -> None:
        client = Client((site.gateway.bind, site.gateway.settings.gateway_port), KEY, context)
        while next(numbers) < requests:
            status = client.status()
            with lock:
                answers[status] += 1

    workers = [threading.Thread(target=work) for _ in range(CLIENTS)]
    started, reloads = time.monotonic(), 0
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        time.sleep(RELOAD_EVERY_S)
        reloads += 1
        site.reload(replace(site.gateway, clients={"one": KEY, "two": f"sk-{reloads}"}))
    lost = {status: count for status, count in answers.items() if status != "200"}
    return {
        "requests": answers.total(),
        "reloads": reloads,
        "seconds": round(time.monotonic() - started, 1),
        "lost": sum(lost.values()),
        "lost_by": lost,
    }


@contextmanager
def gateway(folder: Path, **settings: Any) -> Iterator[tuple[Site, ssl.SSLContext]]:
    """Run a gateway with TLS before two stub engines; yield it, and what a client needs to trust it."""
    certificate, key = make_certificate(folder, "gateway")
    with running(folder, {"h1": "m", "h2": "m"}, certificate=certificate + key, **settings) as site:
        yield site, ssl.create_default_context(cadata=certificate)


def measure(requests: int) -> dict[str, Any]:
    """Measure gateways that choose a host by the fewest requests, and by prefixes; the first is reloaded, too."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder)) as (site, context):
        result["first_token"] = measure_latency(site, context)
        result["reload"] = measure_reloads(site, context, requests)
    with tempfile.TemporaryDirectory() as folder, gateway(Path(folder), gateway_balance="prefixes") as (site, context):
        result["first_token_by_prefixes"] = measure_latency(site, context)
    return result


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=100_000)
    given = options.parse_args()
    result = header("gateway-load")
    haproxy = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    result["versions"]["haproxy"] = haproxy
    result |= measure(given.requests)
    added = [result[name]["added"] for name in ("first_token", "first_token_by_prefixes")]
    met = result["reload"]["lost"] == 0 and all(
        one["p50_ms"] <= AIM_P50_MS and one["p99_ms"] <= AIM_P99_MS for one in added
    )
    result["aim"] = {"added_p50_ms": AIM_P50_MS, "added_p99_ms": AIM_P99_MS, "lost": 0, "met": met}
    publish(result, "gateway-load")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
