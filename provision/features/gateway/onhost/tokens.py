"""Which hosts give the router the tokens of prompts: `python3 tokens.py FOLDER PORT`. Standard library only.

FOLDER has the files of HAProxy. Each host is asked as the router asks it; its name and the status of its answer are printed, 0 without one.
"""

from __future__ import annotations

import http.client
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ANSWER_S = 10.0
ROUTE = "/v1/chat/completions/render"


def status_of(address: str, port: int, key: str, model: str) -> int:
    """Return the status of a host's answer."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "a"}]})
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        connection = http.client.HTTPConnection(address, port, timeout=ANSWER_S)
        connection.request("POST", ROUTE, body, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0


def main() -> None:
    """Ask all hosts."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    key = (folder / "router.map").read_text().split()[1]
    servers = json.loads((folder / "traffic.json").read_text())["servers"]
    names = {f"routed-{one['server']}": (name, one["model"]) for name, one in servers.items()}
    addresses = [line.split() for line in (folder / "routed.map").read_text().splitlines()]
    with ThreadPoolExecutor(32) as pool:
        statuses = pool.map(lambda one: status_of(one[0], port, key, names[one[1]][1]), addresses)
    for (_, backend), status in zip(addresses, statuses):
        sys.stdout.write(f"{names[backend][0]} {status}\n")


if __name__ == "__main__":
    main()
