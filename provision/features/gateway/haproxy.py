"""Files of HAProxy, rendered from records. Pure: equal records give equal bytes.

A request passes HAProxy twice. The first pass checks it and chooses a host; only then is known whose API key it has to carry.
So the first pass hands it, with the name of the host, through a socket that nobody else can open to the second,
which adds the key and forwards it. Retries, queues and health belong to the first pass.

With the choice of hosts by prefixes, where each request goes is computed from its beginning by consistent hashing with bounded loads (arXiv
1608.01350), so nothing has to be remembered: a reload, a restart and a second gateway choose alike. A host whose load is at its bound is left
out, and so is one that is drained or down; their requests go to the next hosts on the ring.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from provision.core.tables import own_table, rows_of
from provision.core.templates import text_templates
from provision.core.unit_set import filled
from provision.features.gateway.backends import Backend, Gateway

CONFIG = "haproxy.cfg"
UNIT = "firstlight-gateway.service"
CERTIFICATE = "certificate.pem"
CERTIFICATE_NAMES = "certificate.names"
"""The names of a certificate that the host signs itself: with other names the files are others, and it signs again."""
CLIENTS, HOSTS, MODELS, ROUTES, MODEL_LIST = "clients.map", "hosts.map", "models.map", "routes.lst", "models.json"
PROBES = "probes.map"
TRAFFIC, TRAFFIC_PROGRAM = "traffic.json", "traffic.py"
"""What `onhost/traffic.py` has to know of these files, and that program."""
TOO_LARGE = "too_large.lua"
"""The answer to a request that is too large."""
TOKENS = "tokens.lua"
"""The counts of clients' tokens, and the answer to a client that has used up its budget."""
SERVED, ADDRESSES = "served.json", "addresses.txt"
"""What hosts served when the files were made, and the addresses of their names, for a run in which one cannot be asked."""
SECRET = (CLIENTS, HOSTS, SERVED, CERTIFICATE)
"""Files that only root may read."""
_HEADER_ROOM = 64 * 1024
"""Bytes of a buffer beside the body: the head of a request, and what HAProxy keeps free."""
_MIB = 1024 * 1024
_RETRIED = 256 * 1024
"""Bytes of the largest request that is sent to another host when the first refuses it, where nothing else needs it whole. HAProxy
copies a whole buffer for each request that it may send again, which takes 0.15 ms per MiB, and keeps the copy until
the stream ends (benchmarks/results/gateway-streams.json)."""
_ARRIVES = 16
"""Times the largest request that still arrives before it is refused; one that is larger is cut off."""

_ASKED_S, _ASKED_WITHOUT_BUDGETS_S = 1, 10
"""Seconds between two questions to a host for the tokens of clients."""

COMPARED = 1024
"""Bytes of each text that count. Prompts that differ earlier share less than about 250 tokens, which are computed within milliseconds;
those that differ later share their document or instructions, whatever is asked about them."""
BOUND_PERCENT = 150
"""The bound of a host's requests, in percent of the mean of all hosts. For 2 to 50 hosts with 32 requests each, 97.5 % and more of the requests
meet their prefix at this bound; at KubeAI's default, 125, it is 89.7 % and more, and at 200 a host gets twice the mean. With few requests a
host the bound acts more often, since one request more or less is much there: then another host computes the prefix, which has the
time (benchmarks/results/prefix-choice.json)."""
_RING_IDS = 2**20
"""HAProxy places a server on its ring by its number times 4,096 (`SRV_EWGHT_RANGE`), in 32 bits."""


@dataclass(frozen=True)
class Text:
    """Where one route's requests have a text of their beginning."""

    route: str
    paths: tuple[str, ...]
    behind_instructions: str | None = None
    """Path of a role: the text counts only if that is one of instructions."""


def texts() -> tuple[Text, ...]:
    """Return the texts of beginnings.toml, in the order of the prompt."""
    return rows_of(Path(__file__).with_name("beginnings.toml"), "text", Text)


def unit_text(prefix: str) -> str:
    """Return the text of the unit that runs HAProxy."""
    return filled(Path(__file__).with_name(UNIT), prefix=prefix)


@dataclass(frozen=True)
class Files:
    """The files of a gateway, which refer to one another by name."""

    digest: str
    """Names them; the process that runs with them knows it as its variable `proc.firstlight`."""
    texts: dict[str, str] = field(repr=False)


def render(gateway: Gateway, more: Mapping[str, str] | None = None) -> Files:
    """Return the files of a gateway; those of `more` are added as they are.

    Where the gateway speaks TLS and `more` has no certificate, a file of that name has to be added on the host.
    """
    texts = {**_texts(gateway), **(more or {})}
    digest = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:16]
    texts[CONFIG] = texts[CONFIG].replace("global\n", f"global\n    set-var proc.firstlight str({digest})\n", 1)
    return Files(digest, texts)


def _texts(gateway: Gateway) -> dict[str, str]:
    models = gateway.models()
    # Requests for one token. Whether the text means anything does not matter.
    probes = {
        server: json.dumps({"model": one.model, "prompt": "a", "max_tokens": 1}, separators=(",", ":"))
        for server, one in _servers(gateway.backends)
    }
    files = {
        CONFIG: _config(gateway, models),
        CLIENTS: _lines(f"{key} {name}" for name, key in sorted(gateway.clients.items())),
        HOSTS: _lines(f"{server} {one.key}" for server, one in _servers(gateway.backends) if one.key),
        PROBES: _lines(f"{server} {probe}" for server, probe in probes.items()),
        ROUTES: _lines(own_table(Path(__file__).with_name("routes.toml"))["passed"]),
        TOO_LARGE: filled(
            Path(__file__).with_name(TOO_LARGE),
            body=_body(_larger(gateway.settings.gateway_body_mib), "invalid_request_error"),
        ),
        TOKENS: _tokens(gateway),
        TRAFFIC: _traffic(gateway, models),
        TRAFFIC_PROGRAM: (Path(__file__).parent / "onhost" / TRAFFIC_PROGRAM).read_text(encoding="utf-8"),
    }
    if len(models) > 1:
        files[MODELS] = _lines(f"{name} model-{[*models].index(model)}" for name, model in gateway.names().items())
        listed = [{"id": name, "object": "model", "owned_by": "firstlight"} for name in gateway.names()]
        files[MODEL_LIST] = json.dumps({"object": "list", "data": listed}) + "\n"
    return files


def _tokens(gateway: Gateway) -> str:
    """Return the program of HAProxy that knows the tokens of clients, from tokens.lua."""
    budgets = gateway.budgets()
    limits = []
    for client, own in budgets.items():
        windows = ", ".join(f"{window} = {most}" for window, most in own.items())
        limits.append(f'["{client}"] = {{{windows}}}')
    return filled(
        Path(__file__).with_name(TOKENS),
        hosts=", ".join(f'"{server}"' for server, one in _servers(gateway.backends) if one.key),
        budgets=", ".join(limits),
        socket=f"{gateway.run_folder}/hosts.sock",
        pause_s=_ASKED_S if any(budgets.values()) else _ASKED_WITHOUT_BUDGETS_S,
        body=_body("the budget of tokens is used up: %s", "rate_limit_error"),
    )


def _traffic(gateway: Gateway, models: dict[str, list[Backend]]) -> str:
    """Return where HAProxy knows each host, and the line that drains it at HAProxy's start."""
    servers = {
        one.name: {
            "model": model,
            "backend": f"model-{number}",
            "server": server,
            "state": _drained_line(f"model-{number}", server),
        }
        for number, (model, backends) in enumerate(models.items())
        for server, one in _servers(backends)
    }
    return json.dumps({"run_folder": gateway.run_folder, "servers": servers}, indent=1, sort_keys=True) + "\n"


def _drained_line(backend: str, server: str) -> str:
    """Return a server as `show servers state` prints it when it is drained (8) and nothing else is known of it.

    HAProxy finds it by both names. Its columns: HAProxy's management guide, `show servers state`.
    """
    return f"0 {backend} 0 {server} - 2 8 1 1 0 1 0 2 6 0 0 0 - 0 - 0 0 - - 0"


def _lines(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _servers(backends: tuple[Backend, ...] | list[Backend]) -> Iterator[tuple[str, Backend]]:
    """Yield each back end with its name in HAProxy, which takes fewer characters than an inventory.

    Services are MACHINE:SERVICE there, which Prometheus turns back.
    """
    for backend in sorted(backends, key=lambda one: one.name):
        yield re.sub(r"[^A-Za-z0-9.:_-]", "_", backend.name.replace("@", ":")), backend


def ring_ids(servers: Iterable[str]) -> dict[str, int]:
    """Return the number of each server in HAProxy, by its name, so that another host in the list moves none of the others on the ring."""
    found: dict[str, int] = {}
    for server in sorted(servers):
        number = int.from_bytes(hashlib.sha256(server.encode()).digest()[:4]) % (_RING_IDS - 1)
        while number + 1 in found.values():
            number = (number + 1) % (_RING_IDS - 1)
        found[server] = number + 1
    return found


def _refusal(message: str, kind: str) -> str:
    """Return the words of a refusal that clients of OpenAI's API can read, quoted for HAProxy."""
    return f"content-type application/json string '{_body(message, kind)}'"


def _body(message: str, kind: str) -> str:
    """Return the document of a refusal."""
    return json.dumps({"error": {"message": message, "type": kind, "code": None, "param": None}})


def _address(address: str, port: int) -> str:
    return f"ipv6@[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _larger(body_mib: int) -> str:
    return f"the request is larger than {body_mib} MiB"


def _config(gateway: Gateway, models: dict[str, list[Backend]]) -> str:
    """Return the configuration, from haproxy.cfg.j2."""
    return (
        text_templates(Path(__file__).parent)
        .get_template("haproxy.cfg.j2")
        .render(
            gateway=gateway,
            models=models,
            beginnings=texts(),
            compared=COMPARED,
            bound_percent=BOUND_PERCENT,
            ring_ids=ring_ids,
            body_bytes=gateway.settings.gateway_body_mib * _MIB,
            arriving_bytes=gateway.settings.gateway_body_mib * _MIB * _ARRIVES,
            too_large=TOO_LARGE,
            tokens=TOKENS,
            has_budgets=any(gateway.budgets().values()),
            larger=_larger(gateway.settings.gateway_body_mib),
            buffer_bytes=(gateway.settings.gateway_body_mib * _MIB if len(models) > 1 else _RETRIED) + _HEADER_ROOM,
            busy=_refusal("no host can take the request now; try again", "overloaded"),
            refusal=_refusal,
            address=_address,
            servers=lambda backends: list(_servers(backends)),
        )
    )
