"""Files of HAProxy, rendered from records. Pure: equal records give equal bytes.

A request passes HAProxy twice. The first pass checks it and chooses a host; only then is known whose API key it has to carry.
So the first pass hands it, with the name of the host, through a socket that nobody else can open to the second,
which adds the key and forwards it. Retries, queues and health belong to the first pass.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from provision.core.tables import own_table
from provision.features.gateway import router
from provision.features.gateway.beginnings import balance_rules, reading_rules, ring_ids
from provision.features.gateway.records import Backend, Gateway

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
DRAINED_STATE = "drained.state"
"""Beside the folder of these files: the hosts that are drained when HAProxy starts."""
CANARY_MAP = "canary.map"
"""Next to the folder of these files: the share of each host of a rollout, as `onhost/traffic.py` writes it."""
SERVED = "served.json"
"""What hosts served when the files were made, for a run in which one cannot be asked."""
SECRET = (CLIENTS, HOSTS, SERVED, CERTIFICATE, router.KEY)
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
_HOST_HEADER = "x-firstlight-host"


def unit_text(prefix: str) -> str:
    """Return the text of the unit that runs HAProxy."""
    return _own(UNIT).substitute(prefix=prefix)


def _own(name: str) -> Template:
    """Return a template of this folder."""
    return Template(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def passed_routes() -> tuple[str, ...]:
    """Return the routes that clients may use, as `METHOD /path`."""
    return tuple(own_table(Path(__file__).with_name("routes.toml"))["passed"])


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
    files = {
        CONFIG: "\n".join(_config(gateway, models)) + "\n",
        CLIENTS: _lines(f"{key} {name}" for name, key in sorted(gateway.clients.items())),
        HOSTS: _lines(f"{server} {one.key}" for server, one in _servers(gateway.backends) if one.key),
        PROBES: _lines(f"{server} {_probe(one.model)}" for server, one in _servers(gateway.backends)),
        ROUTES: _lines(passed_routes()),
        TOO_LARGE: _own(TOO_LARGE).substitute(body=_body(_larger(gateway.limits.body_mib), "invalid_request_error")),
        TRAFFIC: _traffic(gateway, models),
        TRAFFIC_PROGRAM: (Path(__file__).parent / "onhost" / TRAFFIC_PROGRAM).read_text(encoding="utf-8"),
    }
    if gateway.balance == "router":
        files |= router.files(gateway, routed(gateway)[0])
    if len(models) > 1:
        files[MODELS] = _lines(f"{model} model-{number}" for number, model in enumerate(models))
        listed = [{"id": model, "object": "model", "owned_by": "firstlight"} for model in models]
        files[MODEL_LIST] = json.dumps({"object": "list", "data": listed}) + "\n"
    return files


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


def _probe(model: str) -> str:
    """Return a request for one token. Whether the text means anything does not matter."""
    return json.dumps({"model": model, "prompt": "a", "max_tokens": 1}, separators=(",", ":"))


def _lines(lines: Iterator[str] | tuple[str, ...]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _servers(backends: tuple[Backend, ...] | list[Backend]) -> Iterator[tuple[str, Backend]]:
    """Yield each back end with its name in HAProxy, which takes fewer characters than an inventory."""
    for backend in sorted(backends, key=lambda one: one.name):
        yield re.sub(r"[^A-Za-z0-9.:_-]", "_", backend.name), backend


def routed(gateway: Gateway) -> tuple[dict[str, str], dict[str, int]]:
    """Return the model of each server by HAProxy's name of it, and the number of each model in HAProxy."""
    servers = {server: one.model for server, one in _servers(gateway.backends)}
    return servers, {model: number for number, model in enumerate(gateway.models())}


def _error(message: str, kind: str) -> str:
    """Return the words of a refusal that clients of OpenAI's API can read, quoted for HAProxy."""
    return f"content-type application/json string '{_body(message, kind)}'"


def _body(message: str, kind: str) -> str:
    """Return the document of a refusal."""
    return json.dumps({"error": {"message": message, "type": kind, "code": None, "param": None}})


def _address(address: str, port: int) -> str:
    return f"ipv6@[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _config(gateway: Gateway, models: dict[str, list[Backend]]) -> Iterator[str]:
    yield from _global(gateway, models)
    yield from _defaults()
    yield from _clients(gateway, models)
    for number, backends in enumerate(models.values()):
        yield from _model(gateway, number, backends)
    if gateway.balance == "router":
        most = gateway.limits.host_requests
        yield from router.routed_lines(gateway.router_port, most, *routed(gateway), f"{gateway.run_folder}/hosts.sock")
    yield from _second_pass(gateway)
    if gateway.metrics is not None:
        yield from _metrics(gateway.metrics)


def _global(gateway: Gateway, models: dict[str, list[Backend]]) -> Iterator[str]:
    yield "# Made by Firstlight; a change here is undone by the next run."
    yield "global"
    yield "    default-path config"
    yield ".if feature(LUA)"
    yield f"    lua-load {TOO_LARGE}"
    yield ".endif"
    if gateway.account is not None:
        yield f"    user {gateway.account}"
        yield f"    group {gateway.account}"
    yield "    maxconn 8192"
    yield "    log stdout format raw local0 info"
    yield f"    stats socket {gateway.run_folder}/admin.sock mode 600 level admin expose-fd listeners"
    yield "    # Who is drained stays so over a reload and a restart."
    yield f"    server-state-file {gateway.folder}/{DRAINED_STATE}"
    yield "    # A request is kept whole until its model is known, and as long as it can be sent to another host."
    whole = gateway.limits.body_mib * _MIB if len(models) > 1 else _RETRIED
    yield f"    tune.bufsize {whole + _HEADER_ROOM}"
    yield "    # Streams of the process before a reload go on for this long."
    yield "    hard-stop-after 1h"
    if gateway.tls:
        yield "    ssl-default-bind-options ssl-min-ver TLSv1.2"


def _defaults() -> Iterator[str]:
    yield ""
    yield "defaults"
    yield "    mode http"
    yield "    log global"
    yield "    # Without it the kernel collects tokens, and the first one is late by a tenth of a second and more."
    yield "    option http-no-delay"
    yield "    timeout connect 3s"
    yield "    timeout http-request 30s"
    yield "    timeout http-keep-alive 2m"
    yield "    timeout queue 15s"
    yield "    # Of silence: a long prompt has no token for minutes."
    yield "    timeout client 30m"
    yield "    timeout server 30m"
    yield "    load-server-state-from-file global"


def _clients(gateway: Gateway, models: dict[str, list[Backend]]) -> Iterator[str]:
    tls = f" ssl crt {CERTIFICATE} alpn h2,http/1.1" if gateway.tls else ""
    limits = gateway.limits
    yield ""
    yield "frontend clients"
    yield f"    bind {_address(gateway.bind, gateway.port)}{tls}"
    yield "    option http-buffer-request"
    # Clients keep connections: one that is idle during a reload gets its next answer, and is closed then.
    yield "    option idle-close-on-response"
    yield "    option httplog"
    yield "    option dontlog-normal"
    yield _busy()
    yield "    http-response set-header Retry-After 2 if { status 503 } !{ res.hdr(Retry-After) -m found }"
    ready = " ".join(f"{{ nbsrv(model-{number}) gt 0 }}" for number in range(len(models)))
    yield "    http-request set-var-fmt(txn.route) '%[method] %[path]'"
    yield f"    http-request return status 200 content-type text/plain string ready if {{ path /health }} {ready}"
    yield "    http-request return status 503 content-type text/plain string 'a model has no host' if { path /health }"
    yield f"    http-request set-var(txn.client) http_auth_bearer,map_str({CLIENTS})"
    yield (
        f"    http-request set-var(txn.client) req.hdr(x-api-key),map_str({CLIENTS}) "
        "if !{ var(txn.client) -m found } { req.hdr(x-api-key) -m found }"
    )
    unknown = _error("the API key is missing or unknown", "invalid_request_error")
    yield f"    http-request return status 401 {unknown} hdr WWW-Authenticate Bearer unless {{ var(txn.client) -m found }}"
    hidden = _error("this route is not served here", "not_found_error")
    yield f"    http-request return status 404 {hidden} unless {{ var(txn.route) -m str -f {ROUTES} }}"
    if limits.requests_per_minute is not None:
        many = _error(f"more than {limits.requests_per_minute} requests in a minute", "rate_limit_error")
        yield "    stick-table type string len 64 size 10k expire 2m store http_req_rate(1m)"
        yield "    http-request track-sc0 var(txn.client)"
        yield (
            f"    http-request return status 429 {many} hdr Retry-After 10 "
            f"if {{ sc_http_req_rate(0) gt {limits.requests_per_minute} }}"
        )
    unsized = _error("the request has no Content-Length", "invalid_request_error")
    yield f"    http-request return status 411 {unsized} if METH_POST !{{ req.hdr(content-length) -m found }}"
    yield from _too_large(limits.body_mib)
    for header in ("authorization", "x-api-key", _HOST_HEADER):
        yield f"    http-request del-header {header}"
    if gateway.balance == "prefixes":
        yield from reading_rules()
    if gateway.balance == "router":
        yield from router.passing_rules()
    if len(models) == 1:
        yield "    default_backend model-0"
        return
    yield f"    http-request return status 200 content-type application/json file {MODEL_LIST} if {{ path /v1/models }}"
    yield f"    http-request set-var(txn.backend) req.body,json_query('$.model'),map_str({MODELS})"
    absent = _error("the request names no model that is served here; GET /v1/models lists them", "not_found_error")
    yield f"    http-request return status 404 {absent} unless {{ var(txn.backend) -m found }}"
    yield "    use_backend %[var(txn.backend)]"


def _too_large(body_mib: int) -> Iterator[str]:
    """Yield the rules that refuse a request which is too large: when it has arrived, where that is no abuse, else at once."""
    size, most = "req.hdr_val(content-length)", body_mib * _MIB
    yield ".if feature(LUA)"
    yield f"    http-request use-service lua.too_large if {{ {size} gt {most} }} {{ {size} le {_ARRIVES * most} }}"
    yield ".endif"
    large = _error(_larger(body_mib), "invalid_request_error")
    yield f"    http-request return status 413 {large} if {{ {size} gt {most} }}"


def _larger(body_mib: int) -> str:
    return f"the request is larger than {body_mib} MiB"


def _model(gateway: Gateway, number: int, backends: list[Backend]) -> Iterator[str]:
    yield ""
    yield f"# {backends[0].model}"
    yield f"backend model-{number}"
    by_prefixes = gateway.balance == "prefixes"
    if by_prefixes:
        yield from balance_rules()
    else:
        yield "    balance leastconn"
    yield "    retries 2"
    yield "    option redispatch 1"
    # The router says 502 where a host ended before it answered.
    yield f"    retry-on conn-failure empty-response{' 502' if gateway.balance == 'router' else ''} 503"
    yield "    option abortonclose"
    yield "    option httpchk"
    yield "    # By way of the second pass, which also knows whether the host still computes."
    yield f"    http-check send meth GET uri /health ver HTTP/1.1 hdr Host gateway hdr {_HOST_HEADER} %[srv_name]"
    yield "    http-check expect status 200"
    # A server at work may answer late. Whether its engine computes is then the word of its health agent.
    yield f"    timeout check {1 if any(one.health_port is None for one in backends) else 5}s"
    yield f"    http-send-name-header {_HOST_HEADER}"
    most = gateway.limits.host_requests
    yield f"    http-request deny deny_status 503 if {{ queue ge {most * len(backends)} }}"
    yield "    default-server weight 100 inter 500ms fastinter 100ms fall 2 rise 2"
    yield from _canaries(gateway, number, backends)
    if gateway.balance == "router":
        yield from router.choosing_rules(number, gateway.router_port, most * len(backends))
    ids = ring_ids(server for server, _ in _servers(backends)) if by_prefixes else {}
    for server, one in _servers(backends):
        ring_id = f" id {ids[server]}" if by_prefixes else ""
        limits = f"slowstart 30s on-marked-down shutdown-sessions maxconn {most}"
        yield f"    server {server} unix@{gateway.run_folder}/hosts.sock check {limits}{ring_id}{_agent(one)}"


def _canaries(gateway: Gateway, number: int, backends: list[Backend]) -> Iterator[str]:
    """Yield the rules that give hosts of a rollout their share of requests, by a draw for each request.

    Such a host is drained, so that only these rules choose it: with weights, leastconn would give a slow one less. Its bound
    in the map is the share of all such hosts up to it. Where no other host is left they take all requests.
    """
    yield "    http-request set-var(txn.draw) rand(10000)"
    for server, _ in _servers(backends):
        bound = f"str({server}),map_str_int({gateway.folder}/{CANARY_MAP},0)"
        yield f"    use-server {server} if {{ {bound},sub(txn.draw) gt 0 }}"
        yield f"    use-server {server} if {{ nbsrv(model-{number}) eq 0 }} {{ {bound} gt 0 }}"


def _agent(one: Backend) -> str:
    """Return the words that let HAProxy ask a host's health agent, whose word can neither drain a host nor undo that."""
    if one.health_port is None:
        return ""
    return f" agent-check agent-addr {one.address} agent-port {one.health_port} agent-inter 250ms"


def _second_pass(gateway: Gateway) -> Iterator[str]:
    owner = f" user {gateway.account}" if gateway.account is not None else ""
    yield ""
    yield "frontend hosts"
    yield f"    bind unix@{gateway.run_folder}/hosts.sock{owner} mode 600"
    # The first pass keeps connections: one that is closed at a reload costs the request on it one of its retries.
    yield "    option idle-close-on-response"
    yield "    # The first pass logs what failed, and asks for /health here twice a second."
    yield "    no log"
    yield _busy()
    yield "    default_backend hosts"
    yield ""
    yield "backend hosts"
    yield "    retries 0"
    yield "    # The kernel of a host accepts a connection however busy its server is. A host that is gone does not."
    yield "    timeout connect 600ms"
    yield "    # /health of an engine that hangs still answers, so a host without a health agent is also asked for a token. What a"
    yield "    # client may do wrong, and a host that has too much to do (503), say nothing against it."
    yield "    option httpchk"
    yield (
        "    http-check send meth POST uri /v1/completions ver HTTP/1.1 hdr Host gateway hdr Content-Type application/json "
        f"hdr Authorization 'Bearer %[srv_name,map_str({HOSTS})]' body-lf '%[srv_name,map_str({PROBES})]'"
    )
    yield "    http-check expect status 100-499,503"
    yield f"    timeout check {gateway.probe.patience_s}s"
    yield (
        f"    default-server inter {gateway.probe.interval_s}s fastinter 2s downinter 2s fall 2 rise 1 "
        "on-marked-down shutdown-sessions"
    )
    yield f"    http-request set-var(txn.host) req.hdr({_HOST_HEADER})"
    yield f"    http-request set-var(txn.key) var(txn.host),map_str({HOSTS})"
    yield f"    http-request del-header {_HOST_HEADER}"
    yield "    http-request del-header authorization"
    yield "    http-request set-header authorization 'Bearer %[var(txn.key)]' if { var(txn.key) -m found }"
    for server, one in _servers(gateway.backends):
        if one.health_port is None:
            yield f"    http-request return status 503 if {{ var(txn.host) -m str {server} }} !{{ srv_is_up({server}) }}"
    yield "    use-server %[var(txn.host)] if TRUE"
    for server, one in _servers(gateway.backends):
        yield f"    server {server} {_address(one.address, one.port)}{' check' if one.health_port is None else ''}"


def _busy() -> str:
    """Return the answer where no host takes a request, or the one that is to take it does not accept the connection."""
    busy = _error("no host can take the request now; try again", "overloaded")
    return f"    http-error status 503 {busy} hdr Retry-After 2"


def _metrics(address: tuple[str, int]) -> Iterator[str]:
    yield ""
    yield "frontend metrics"
    yield f"    bind {_address(*address)}"
    yield "    no log"
    yield "    http-request use-service prometheus-exporter if { path /metrics }"
    yield "    http-request return status 404"
