"""Requests to a test host's service from the host itself, and multihost trials with another host's environment."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from provision.features.multinode.coordinator import meet
from provision.fleet.ssh import open_session
from provision.phases.verify.run_checks import tool_command
from tests.fleet.command_runner import CommandRunner
from tests.fleet.hosts import FleetHost
from tests.fleet.inventories import hosts_of

PREFIX = "/opt/firstlight"
INVOCATION = "systemctl show -P InvocationID firstlight-vllm"
"""A command whose output differs after each start of the service."""
SERVING_CHECKS = ("unit", "process", "access", "model", "answer", "start")
ASK = """
import json, sys, urllib.request
key = next((line.split("=", 1)[1].strip() for line in open("{prefix}/etc/service.env") if line.startswith("VLLM_API_KEY=")), "")
def get(path, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request("http://{address}:{port}" + path, headers=headers), timeout=30) as answer:
            return [answer.status, json.load(answer)]
    except urllib.error.HTTPError as error:
        return [error.code, None]
def code(method, path):
    try:
        return urllib.request.urlopen(urllib.request.Request("http://{address}:{port}" + path, method=method), timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
listed = get("/openapi.json", Authorization="Bearer " + key)[1]["paths"]
routes = {{method.upper() + " " + path: code(method.upper(), path) for path, methods in listed.items() for method in methods}}
routes |= {{"GET " + path: code("GET", path) for path in ("/metrics", "/docs", "/openapi.json")}}
print(json.dumps({{"with": get("/v1/models", Authorization="Bearer " + key), "without": get("/v1/models"), "routes": routes}}))
"""

POST = """
import json, sys, urllib.request
key = next((line.split("=", 1)[1].strip() for line in open("{prefix}/etc/service.env") if line.startswith("VLLM_API_KEY=")), "")
headers = {{"Authorization": "Bearer " + key, "Content-Type": "application/json"}}
asked = urllib.request.Request("http://127.0.0.1:8000{path}", {body!r}.encode(), headers)
print(urllib.request.urlopen(asked, timeout=60).read().decode())
"""

WAIT = """
import time, urllib.request
for _ in range(1200):
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/health", timeout=60)
        break
    except OSError:
        time.sleep(0.5)
else:
    raise SystemExit(1)
"""
"""One process that waits: a new one each second would take from the cores that the engine starts on."""


def ask(host: FleetHost, *, prefix: str = PREFIX, address: str = "127.0.0.1", port: int = 8000) -> dict[str, Any]:
    """Return the list of models, with the host's own key and without one, and the answer of each route without a key."""
    script = ASK.format(prefix=prefix, address=address, port=port)
    answer: dict[str, Any] = json.loads(host.sh(f"python3 - <<'END'\n{script}\nEND\n"))
    return answer


def post(host: FleetHost, path: str, **body: Any) -> Any:
    """Return the answer to a request with the host's own key."""
    script = POST.format(prefix=PREFIX, path=path, body=json.dumps(body))
    return json.loads(host.sh(f"python3 -I - <<'END'\n{script}\nEND\n", timeout_s=120))


def complete(host: FleetHost, model: str) -> str:
    """Return the greedy answer of a model, or of an adapter, to a fixed prompt."""
    asked = {"model": model, "prompt": "The hosts of", "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    return str(post(host, "/v1/completions", **asked)["choices"][0]["text"])


def checks_of_what_serves(firstlight: CommandRunner, *where: str) -> dict[str, dict[str, Any]]:
    """Return the results of the service's checks on the first host by id; `where` are options of the command line."""
    words = [word for name in SERVING_CHECKS for word in ("--only", f"serving.{name}")]
    ended = firstlight("verify", *where, *words)
    found = {check["id"]: check for check in ended.summary["hosts"][0]["checks"]}
    assert {f"serving.{name}" for name in SERVING_CHECKS} <= set(found), ended.output()
    return found


def wait_until_healthy(host: FleetHost, *, port: int = 8000) -> None:
    """Wait until the server is healthy. Raises RuntimeError if it is not within 240 s."""
    host.sh(f"python3 -I - <<'END'\n{WAIT.format(port=port)}\nEND\n", timeout_s=660)


def try_together(inventory: Path, names: set[str]) -> dict[str, Any]:
    """Return the result of `fleet.network` for provisioned hosts of an inventory, without waiting for the hosts' own checks."""
    command = tool_command(PREFIX, "current", ["multihost"])
    with ExitStack() as stack:
        sessions = {host.name: open_session(host) for host in hosts_of(inventory) if host.name in names}
        for session in sessions.values():
            stack.callback(session.close)
        return meet({name: partial(session.open_channel, command, root=True) for name, session in sessions.items()})
