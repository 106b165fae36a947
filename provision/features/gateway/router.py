"""vllm-router between HAProxy's choice of a model and its hosts: it chooses the host whose cache holds the beginning of a prompt. Pure.

HAProxy stays in front of it and behind it. In front it checks requests, and passes those of some routes to the router of their model; where that does
not run, it chooses by itself. Behind it HAProxy listens at a loopback address for each host: it refuses what is for a host that is down, drained or
a canary, so that the router chooses another one, and adds the host's API key. Nobody else on the gateway can use these addresses: a request
has to carry a key that HAProxy alone knows.
"""

from __future__ import annotations

import ipaddress
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from provision.core.tables import own_table
from provision.core.unit_set import UnitSet
from provision.features.gateway.beginnings import ring_ids
from provision.features.gateway.records import Gateway

NAME = "gateway-router"
UNIT = "firstlight-gateway-router.service"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
SERVER = ":router"
"""Name of the router among the servers of a model; no host has it."""
KEY, ROUTES, ASKED, HOSTS = "router.map", "routed.lst", "asked.lst", "routed.map"
WHEELS = "wheels"
"""Folder next to the unit's files, for the wheel and what it holds."""
_CONFIG, _PROGRAM, _TOKENS = "routers.json", "router.py", "tokens.py"
_ROUTERS, _LISTENERS = ipaddress.IPv4Address("127.86.0.0"), ipaddress.IPv4Address("127.96.0.0")


@dataclass(frozen=True)
class Wheel:
    """The wheel of vllm-router for a gateway."""

    name: str
    sha256: str


def _table() -> Mapping[str, Any]:
    return own_table(Path(__file__).with_name("router.toml"))


def address_of_router(number: int) -> str:
    """Return the loopback address of a model's router, by the number of the model."""
    return str(_ROUTERS + 1 + number)


def addresses_of_hosts(servers: Mapping[str, str]) -> dict[str, str]:
    """Return the loopback address at which HAProxy stands for each host.

    Another host in the list moves none of the others, and a host with another model gets another address: a router of before never
    reaches one of another model.

    Args:
        servers: The model of each server, by HAProxy's name of it.
    """
    ids = ring_ids(f"{model}\n{server}" for server, model in servers.items())
    return {server: str(_LISTENERS + ids[f"{model}\n{server}"]) for server, model in servers.items()}


def known_key(text: str) -> str:
    """Return the key of a gateway from its file; empty where it has none."""
    return text.partition(" ")[2].strip()


def files(gateway: Gateway, servers: Mapping[str, str]) -> dict[str, str]:
    """Return the files that HAProxy's lines for the router refer to.

    Args:
        gateway: The gateway.
        servers: The model of each server, by HAProxy's name of it.
    """
    return {
        KEY: f"router {gateway.router_key}\n",
        ROUTES: "".join(f"{route}\n" for route in _table()["routes"]),
        ASKED: "".join(f"{route}\n" for route in _table()["asked"]),
        HOSTS: "".join(f"{address} {_routed(server)}\n" for server, address in addresses_of_hosts(servers).items()),
    }


def passing_rules() -> Iterator[str]:
    """Yield the rules by which a request gets the key that routers hand on."""
    yield f"    http-request set-header authorization 'Bearer %[str(router),map_str({KEY})]'"


def choosing_rules(number: int, port: int, most: int) -> Iterator[str]:
    """Yield the lines of a model that pass requests to its router, behind those that choose canaries.

    Args:
        number: The number of the model.
        port: Port of its router.
        most: Requests that it works on at a time.
    """
    words = " ".join(f"'{word}'" for word in _table()["unread"])
    yield f"    acl routed var(txn.route) -m str -f {ROUTES}"
    yield f"    acl unread req.body -m sub {words}"
    yield f"    use-server {SERVER} if routed !unread"
    # Its streams go on when it does not answer any more: it listens no longer when it is to end.
    yield f"    server {SERVER} {address_of_router(number)}:{port} track routers/router-{number} weight 0 maxconn {most}"


def routed_lines(
    port: int, most: int, servers: Mapping[str, str], backends: Mapping[str, int], socket: str
) -> Iterator[str]:
    """Yield the sections that know whether routers answer, and that stand for hosts behind them.

    Args:
        port: Port of the listeners.
        most: Requests that one host works on at a time.
        servers: The model of each server, by HAProxy's name of it.
        backends: The number of each model.
        socket: The socket of the second pass.
    """
    addresses = addresses_of_hosts(servers)
    yield ""
    yield "backend routers"
    yield "    # Its /health says 503 as soon as one of its hosts is out."
    yield "    option httpchk GET /readiness"
    yield "    timeout check 1s"
    yield "    default-server inter 500ms fastinter 100ms fall 2 rise 2"
    yield from (f"    server router-{number} {address_of_router(number)}:{port} check" for number in backends.values())
    yield ""
    yield "frontend routed"
    yield from (f"    bind {address}:{port}" for address in addresses.values())
    yield "    option idle-close-on-response"
    yield "    no log"
    yield f"    http-request set-var(txn.key) str(router),map_str({KEY})"
    yield "    http-request set-var(txn.given) http_auth_bearer"
    yield "    http-request return status 403 unless { path /health } || { var(txn.given),strcmp(txn.key) eq 0 }"
    yield "    http-request set-var-fmt(txn.route) '%[method] %[path]'"
    yield f"    http-request return status 404 unless {{ path /health }} || {{ var(txn.route) -m str -f {ROUTES} -f {ASKED} }}"
    yield f"    http-request set-var(txn.backend) dst,map_str({HOSTS})"
    yield "    use_backend %[var(txn.backend)]"
    for server, model in servers.items():
        yield ""
        yield f"backend {_routed(server)}"
        yield "    retries 0"
        yield "    option abortonclose"
        yield "    # The router asks another host then."
        yield "    timeout queue 1s"
        yield "    http-request return status 503 if { nbsrv eq 0 }"
        yield "    http-request return status 200 content-type text/plain string ready if { path /health }"
        yield "    http-send-name-header x-firstlight-host"
        yield "    # Down or drained as its model's server is."
        tracked = f"track model-{backends[model]}/{server} on-marked-down shutdown-sessions"
        yield f"    server {server} unix@{socket} {tracked} maxconn {most}"


def _routed(server: str) -> str:
    return f"routed-{server}"


def router_set(
    gateway: Gateway,
    servers: Mapping[str, str],
    backends: Mapping[str, int],
    *,
    wheel: Wheel,
    python: str,
    prefix: str,
) -> UnitSet:
    """Return the unit that runs the routers of a gateway, and its files.

    Args:
        gateway: The gateway.
        servers: The model of each server, by HAProxy's name of it.
        backends: The number of each model.
        wheel: The wheel that it runs.
        python: The gateway's Python.
        prefix: Folder of the installation on the host.
    """
    addresses, port = addresses_of_hosts(servers), gateway.router_port
    routers = [
        {
            **_table()["arguments"],
            "host": address_of_router(number),
            "port": port,
            "prometheus_host": address_of_router(number),
            "max_payload_size": gateway.limits.body_mib * 1024 * 1024,
            "worker_urls": [f"http://{addresses[server]}:{port}" for server, of in servers.items() if of == model],
        }
        for model, number in backends.items()
    ]
    unit = Template(Path(__file__).with_name(UNIT).read_text(encoding="utf-8"))
    document = {"wheel": wheel.name, "sha256": wheel.sha256, "routers": routers}
    return UnitSet(
        name=NAME,
        files={
            _CONFIG: json.dumps(document, indent=1) + "\n",
            **{
                name: (Path(__file__).parent / "onhost" / name).read_text(encoding="utf-8")
                for name in (_PROGRAM, _TOKENS)
            },
        },
        units={UNIT: unit.substitute(python=python, folder=f"{prefix}/{NAME}", account=gateway.account)},
        packages=(),
        packaged=(),
        account=gateway.account or "root",
        ports=(),
        ready=tuple(f"http://{router['host']}:{port}/liveness" for router in routers),
        data=(WHEELS,),
    )


def tokens_command(python: str, prefix: str, port: int) -> str:
    """Return a command that prints each host with the status of its answer when it is asked for the tokens of a prompt.

    Args:
        python: The gateway's Python.
        prefix: Folder of the installation on the gateway.
        port: Port of the listeners.
    """
    return shlex.join([python, "-I", f"{prefix}/{NAME}/current/{_TOKENS}", f"{prefix}/gateway/current", str(port)])


def silent_hosts(said: str) -> dict[str, list[str]]:
    """Return the hosts that refuse to give the tokens of a prompt, by the status of the answer.

    Those that are down or drained say nothing of it (503, or no answer).

    Args:
        said: What `tokens_command` printed.
    """
    found: dict[str, list[str]] = {}
    for name, status in (line.split() for line in said.splitlines()):
        if status not in ("200", "503", "0"):
            found.setdefault(status, []).append(name)
    return found
