"""vllm-router between HAProxy's choice of a model and its hosts: it chooses the host whose cache holds the beginning of a prompt. Pure.

HAProxy stays in front of it and behind it. In front it checks requests, and passes those of some routes to the router of their model; where that does
not run, it chooses by itself. Behind it HAProxy listens at a loopback address for each host: it refuses what is for a host that is down, drained or
a canary, so that the router chooses another one, and adds the host's API key. Nobody else on the gateway can use these addresses: a request
has to carry a key that HAProxy alone knows.
"""

import hashlib
import ipaddress
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from provision.core.models.staged import StagedFile
from provision.core.tables import own_table
from provision.core.unit_set import UnitSet, filled
from provision.features.gateway.backends import Gateway

NAME = "gateway-router"
UNIT = "firstlight-gateway-router.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
KEY, ROUTES, ASKED, HOSTS = "router.map", "routed.lst", "asked.lst", "routed.map"
WHEELS = "wheels"
"""Folder next to the unit's files, for the wheel and what it holds."""
_CONFIG, _PROGRAM, _TOKENS = "routers.json", "router.py", "tokens.py"
_ROUTERS, _LISTENERS = ipaddress.IPv4Address("127.86.0.0"), ipaddress.IPv4Address("127.96.0.0")


def table() -> Mapping[str, Any]:
    """Return router.toml."""
    return own_table(Path(__file__).with_name("router.toml"))


def address_of_router(number: int) -> str:
    """Return the loopback address of a model's router, by the number of the model."""
    return str(_ROUTERS + 1 + number)


def addresses_of_hosts(servers: Mapping[str, str]) -> dict[str, str]:
    """Return the loopback address at which HAProxy stands for each server, from the model of each by HAProxy's name of it.

    Another host in the list moves none of the others, and a host with another model gets another address: a router of before never
    reaches one of another model.
    """
    ids = ring_ids(f"{model}\n{server}" for server, model in servers.items())
    return {server: str(_LISTENERS + ids[f"{model}\n{server}"]) for server, model in servers.items()}


def known_key(text: str) -> str:
    """Return the key of a gateway from its file; empty where it has none."""
    return text.partition(" ")[2].strip()


def files(gateway: Gateway, servers: Mapping[str, str]) -> dict[str, str]:
    """Return the files that HAProxy's lines for the router refer to."""
    return {
        KEY: f"router {gateway.router_key}\n",
        ROUTES: "".join(f"{route}\n" for route in table()["routes"]),
        ASKED: "".join(f"{route}\n" for route in table()["asked"]),
        HOSTS: "".join(f"{address} routed-{server}\n" for server, address in addresses_of_hosts(servers).items()),
    }


def router_set(
    gateway: Gateway,
    servers: Mapping[str, str],
    *,
    wheel: StagedFile,
    python: str,
    prefix: str,
) -> UnitSet:
    """Return the unit that runs the routers of a gateway, and its files; servers have their model."""
    addresses, port = addresses_of_hosts(servers), gateway.settings.gateway_router_port
    routers = [
        {
            **table()["arguments"],
            "host": address_of_router(number),
            "port": port,
            "prometheus_host": address_of_router(number),
            "max_payload_size": gateway.settings.gateway_body_mib * 1024 * 1024,
            "worker_urls": [f"http://{addresses[server]}:{port}" for server, of in servers.items() if of == model],
        }
        for number, model in enumerate(gateway.models())
    ]
    here = Path(__file__).parent
    programs = {name: (here / "onhost" / name).read_text(encoding="utf-8") for name in (_PROGRAM, _TOKENS)}
    document = {"wheel": wheel.name, "sha256": wheel.sha256, "routers": routers}
    return UnitSet(
        name=NAME,
        files={_CONFIG: json.dumps(document, indent=1) + "\n", **programs},
        units={UNIT: filled(here / UNIT, python=python, folder=f"{prefix}/{NAME}", account=gateway.account)},
        account=gateway.account or "root",
        ready=tuple(f"http://{router['host']}:{port}/liveness" for router in routers),
        data=(WHEELS,),
    )


def tokens_command(python: str, prefix: str, port: int) -> str:
    """Return a command that prints each host with the status of its answer when it is asked for the tokens of a prompt."""
    return shlex.join([python, "-I", f"{prefix}/{NAME}/current/{_TOKENS}", f"{prefix}/gateway/current", str(port)])


def silent_hosts(said: str) -> dict[str, list[str]]:
    """Return the hosts that refuse to give the tokens of a prompt, by the status of the answer, from what `tokens_command` printed.

    Those that are down or drained say nothing of it (503, or no answer).
    """
    found: dict[str, list[str]] = {}
    for name, status in (line.split() for line in said.splitlines()):
        if status not in ("200", "503", "0"):
            found.setdefault(status, []).append(name)
    return found


_RING_IDS = 2**20
"""HAProxy places a server on its ring by its number times 4,096 (`SRV_EWGHT_RANGE`), in 32 bits."""


def ring_ids(servers: Iterable[str]) -> dict[str, int]:
    """Return the number of each server in HAProxy, by its name, so that another host in the list moves none of the others on the ring."""
    found: dict[str, int] = {}
    for server in sorted(servers):
        number = int.from_bytes(hashlib.sha256(server.encode()).digest()[:4]) % (_RING_IDS - 1)
        while number + 1 in found.values():
            number = (number + 1) % (_RING_IDS - 1)
        found[server] = number + 1
    return found
