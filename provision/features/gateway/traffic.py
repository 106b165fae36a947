"""What goes through gateways: figures of each host, which hosts may be drained, and the tokens of clients. Pure."""

import csv
import difflib
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from provision.core.errors import FirstlightError, ServeError, UsageError
from provision.report.layout import quoted

By = Literal["operator", "run"]
"""Who drains a host. A run takes back only what a run drained."""
_DRAINED_BY: dict[By, str] = {"operator": "an operator", "run": "a run, until one has verified it"}
COUNTED = "model-"
"""How the names of back ends begin that requests of clients reach a host by."""
COUNTERS = {"sessions": ("scur",), "requests": ("stot",), "errors_5xx": ("hrsp_5xx",), "broken": ("eresp", "srv_abrt")}
"""Columns of HAProxy's `show stat` (management guide, "Statistics and monitoring", CSV format) by our names; the largest counts.

HAProxy 2.6 counts a stream that its server broke off in both of the last two, and one that it ended itself, since it marked the
server down, in `srv_abrt` alone.
"""
SILENT_S = 60
"""Seconds after which a host that tells no counts is named."""


@dataclass(frozen=True)
class HostTraffic:
    """One host behind one gateway. Counts begin with HAProxy's last start or reload, except those that it still works on."""

    host: str
    model: str
    state: Literal["up", "down", "drained", "canary"]
    """A canary gets a share of requests by draw, as a rollout has set it."""
    healthy: bool
    """Whether it would take requests if it were not drained."""
    share: float
    """Percent of the model's new requests that it gets."""
    sessions: int
    """Requests that it works on now."""
    requests: int
    errors_5xx: int
    broken: int
    """Answers that ended before they were whole, or never began."""
    drained_by: By | None = None
    """Who drained it; None where it is not drained, or HAProxy was told to by somebody else."""
    canary: float | None = None
    """Percent of the model's new requests that it has as a canary, also while it is down; None where it is none."""

    @property
    def why_out(self) -> str | None:
        """Return why it gets no new requests; None where it gets some."""
        if self.state == "drained":
            return f"drained by {_DRAINED_BY[self.drained_by]}" if self.drained_by else "drained"
        if self.state == "canary":
            return None if self.share else "canary, 0 %"
        return "down" if self.state == "down" else None


@dataclass(frozen=True)
class Tokens:
    """Tokens of one client in this minute or this day (UTC)."""

    prompt: int
    generated: int
    limit: int | None
    """None without one."""

    @property
    def left(self) -> int | None:
        """Return the tokens that are left; None without a limit."""
        return None if self.limit is None else max(self.limit - self.prompt - self.generated, 0)


@dataclass(frozen=True)
class Usage:
    """Tokens of all clients of one gateway."""

    clients: Mapping[str, Mapping[str, Tokens]] = field(default_factory=dict)
    """By client, and by `minute` and `day`; empty where the gateway knows none."""
    uncounted: tuple[str, ...] = ()
    """Hosts that have told no counts for a minute."""


def read_usage(text: str, names: Mapping[str, str]) -> Usage:
    """Return what HAProxy told with tokens.lua; another answer has no clients. `names` has hosts by their names in HAProxy."""
    clients: dict[str, dict[str, Tokens]] = {}
    uncounted = {*names.values()}
    for words in map(str.split, sorted(text.splitlines(), reverse=True)):
        match words:
            case ["client", client, window, *counts]:
                prompt, generated, limit = map(int, counts)
                clients.setdefault(client, {})[window] = Tokens(prompt, generated, limit or None)
            case ["host", server, age] if 0 <= int(age) < SILENT_S:
                uncounted.discard(names[server])
    return Usage(dict(sorted(clients.items())), tuple(sorted(uncounted)))


@dataclass(frozen=True)
class Traffic:
    """All hosts behind one gateway, by model and name."""

    gateway: str
    hosts: tuple[HostTraffic, ...]
    usage: Usage = field(default_factory=Usage)

    def of(self, name: str) -> HostTraffic | None:
        """Return a host by its name; None where this gateway does not know it."""
        return next((one for one in self.hosts if one.host == name), None)

    def drained(self) -> set[str]:
        """Return the hosts that are drained."""
        return {one.host for one in self.hosts if one.state == "drained"}

    def out(self) -> dict[str, str]:
        """Return why hosts get no new requests, by their names."""
        return {one.host: why for one in self.hosts if (why := one.why_out) is not None}

    def gets_requests(self, name: str) -> bool:
        """Return whether a host gets new requests, be it all of its share or as a canary."""
        one = self.of(name)
        return one is not None and one.state in {"up", "canary"}

    def in_traffic(self, model: str) -> set[str]:
        """Return the hosts that get new requests for a model, without canaries: what one gets is for the others to take."""
        return {one.host for one in self.hosts if one.model == model and one.state == "up"}


def command_of(python: str, folder: str, request: Mapping[str, Any]) -> str:
    """Return the command that asks a gateway for what `draining.ask` takes; without hosts it only answers."""
    return shlex.join([python, "-I", f"{folder}/current/traffic.py", "change", json.dumps(request)])


def parse(gateway: str, answer: str) -> Traffic:
    """Read the answer of `onhost/traffic.py`. Raises ServeError where HAProxy does not run there, or refused."""
    try:
        document = json.loads(answer)
    except ValueError:
        raise ServeError(
            f"gateway `{gateway}` gives no figures: {answer.strip()[-200:] or 'no output'}",
            hint="set it up again: ./firstlight gateway",
        ) from None
    if "error" in document:
        raise ServeError(
            f"gateway `{gateway}`: {document['error']}",
            hint=f"on `{gateway}`: systemctl status firstlight-gateway.service. A gateway that runs since before it could drain "
            "hosts has to be restarted once (systemctl restart firstlight-gateway.service, which ends its streams)",
        )
    rows = [
        (process["is_new"], row)
        for process in document["processes"]
        for row in csv.DictReader(io.StringIO(process["stat"].removeprefix("# ")))
        if row["pxname"].startswith(COUNTED)
    ]
    weights = Counter[str]()
    for is_new, row in rows:
        if is_new and row["svname"] != "BACKEND" and row["status"].startswith("UP"):
            weights[row["pxname"]] += _number(row["weight"])
    hosts = [_host(name, rows, weights, document) for name in document["servers"]]
    names = {server["server"]: name for name, server in document["servers"].items()}
    usage = read_usage(document.get("tokens", ""), names)
    return Traffic(gateway, tuple(sorted(hosts, key=lambda one: (one.model, one.host))), usage)


def _number(text: str | None) -> int:
    return int(text or 0)


def _host(
    name: str,
    rows: Iterable[tuple[bool, Mapping[str, str]]],
    weights: Mapping[str, int],
    document: Mapping[str, Mapping[str, Any]],
) -> HostTraffic:
    servers, drained, canary = document["servers"], document["drained"], document["canary"]
    server = servers[name]
    own = [(is_new, row) for is_new, row in rows if row["svname"] == server["server"]]
    here = (row for is_new, row in own if is_new and row["pxname"] == server["backend"])
    now = next(here, {"status": "", "weight": ""})
    total = weights[server["backend"]]
    healthy = now["status"].startswith(("UP", "DRAIN"))
    state: Literal["up", "down", "drained", "canary"]
    share = 0.0
    if name in drained:
        state = "drained"
    elif name in canary:
        state, share = ("canary", canary[name] / 100) if healthy else ("down", 0.0)
    elif now["status"].startswith(("DRAIN", "MAINT")):
        state = "drained"
    elif now["status"].startswith("UP"):
        drawn = sum(canary.get(other, 0) for other, one in servers.items() if one["backend"] == server["backend"])
        state, share = "up", (100 - drawn / 100) * _number(now["weight"]) / total if total else 0.0
    else:
        state = "down"
    return HostTraffic(
        host=name,
        model=server["model"],
        state=state,
        healthy=healthy,
        share=round(share, 2),
        drained_by=drained.get(name),
        canary=canary[name] / 100 if name in canary else None,
        **{
            field: sum(max(_number(row.get(column)) for column in columns) for _, row in own)
            for field, columns in COUNTERS.items()
        },
    )


def refusal(traffics: Iterable[Traffic], names: Sequence[str], known: Iterable[str]) -> FirstlightError | None:
    """Return why hosts cannot be drained or taken back: a name is none of the known ones, or its host is behind no gateway."""
    behind = sorted({one.host for traffic in traffics for one in traffic.hosts})
    if (name := next((name for name in names if name not in behind), None)) is None:
        return None
    if name in set(known):
        return UsageError(
            f"host `{name}` is behind no gateway of the inventory; behind one are {quoted(behind)}",
            hint="a host gets behind the gateways when it serves: ./firstlight gateway",
        )
    near = difflib.get_close_matches(name, behind, n=3, cutoff=0.5)
    hint = f"did you mean {quoted(near)}?" if near else f"behind the gateways are {quoted(behind)}"
    return UsageError(f"the inventory has no host `{name}`", hint=hint)


def left_without_host(traffics: Iterable[Traffic], names: Iterable[str]) -> FirstlightError | None:
    """Return the error of a model that no host would serve any more if hosts were drained."""
    drained = set(names)
    for traffic in traffics:
        for model in dict.fromkeys(one.model for one in traffic.hosts):
            serving = traffic.in_traffic(model)
            if serving and serving <= drained:
                return UsageError(
                    f"gateway `{traffic.gateway}` would have no host for model `{model}` without {quoted(sorted(serving))}",
                    hint="bring another host back first (./firstlight gateway status names them), "
                    "or add --force: then clients get 503",
                )
    return None


def models_of(traffics: Iterable[Traffic], name: str) -> set[str]:
    """Return the models for which a host gets new requests."""
    return {one.model for traffic in traffics if traffic.gets_requests(name) and (one := traffic.of(name))}


def waves(restarting: Sequence[str], traffics: Sequence[Traffic], at_once: int) -> list[list[str]]:
    """Return hosts in the order in which they may restart, so that of each model a host stays in traffic, and few enough restart at once.

    The first are those that get no requests; there may be none.
    """
    found: list[list[str]] = [[]]
    place = Counter[str]()
    for name in restarting:
        if not (models := models_of(traffics, name)):
            found[0].append(name)
            continue
        model = min(models)
        others = min(len(traffic.in_traffic(model) - {name}) for traffic in traffics if traffic.gets_requests(name))
        number = 1 + place[model] // max(1, min(at_once, others))
        place[model] += 1
        while len(found) <= number:
            found.append([])
        found[number].append(name)
    return found


def sessions_of(traffics: Iterable[Traffic], names: Iterable[str]) -> dict[str, int]:
    """Return the requests that hosts still work on, over all gateways, by host."""
    counts = dict.fromkeys(names, 0)
    for traffic in traffics:
        for one in traffic.hosts:
            if one.host in counts:
                counts[one.host] += one.sessions
    return counts


def document(traffics: Iterable[Traffic]) -> dict[str, Any]:
    """Return what `./firstlight gateway status --json` prints (docs/guides/gateway.md)."""
    return {"gateways": [{"gateway": one.gateway, "hosts": list(map(asdict, one.hosts))} for one in traffics]}


def render(traffics: Iterable[Traffic]) -> str:
    """Return the figures as text: a table for each gateway."""
    return "\n".join(line for traffic in traffics for line in _table_lines(traffic))


def _table_lines(traffic: Traffic) -> list[str]:
    rows: list[tuple[str, ...]] = [("model", "host", "state", "share", "now", "requests", "5xx", "broken")]
    for one in traffic.hosts:
        state = one.state if one.state != "drained" or one.healthy else "drained, down"
        counts = (one.sessions, one.requests, one.errors_5xx, one.broken)
        rows.append((one.model, one.host, state, f"{one.share:g} %", *map(str, counts)))
    return [f"{traffic.gateway}:", *aligned(rows, words=3)]


def usage_document(traffics: Iterable[Traffic]) -> dict[str, Any]:
    """Return what `./firstlight gateway usage --json` prints (docs/guides/gateway.md)."""
    return {
        "gateways": [
            {
                "gateway": traffic.gateway,
                "clients": [
                    {"client": client} | {name: asdict(one) | {"left": one.left} for name, one in windows.items()}
                    for client, windows in traffic.usage.clients.items()
                ],
                "uncounted": [*traffic.usage.uncounted],
            }
            for traffic in traffics
        ]
    }


def render_usage(traffics: Iterable[Traffic]) -> str:
    """Return the same as text: a table for each gateway."""
    return "\n".join(line for traffic in traffics for line in _usage_lines(traffic.gateway, traffic.usage))


def _usage_lines(gateway: str, usage: Usage) -> list[str]:
    if not usage.clients:
        why = "it was set up by an earlier version, or its HAProxy is built without Lua"
        return [f"{gateway}: knows no tokens of clients: {why}; set it up again: ./firstlight gateway"]
    rows: list[tuple[str, ...]] = [("client", "in this", "prompt", "generated", "limit", "left")]
    for client, windows in usage.clients.items():
        for window, tokens in windows.items():
            numbers = (tokens.prompt, tokens.generated, tokens.limit, tokens.left)
            rows.append((client, window, *("-" if one is None else f"{one:,}" for one in numbers)))
    lines = [f"{gateway}:", *aligned(rows, words=2)]
    if usage.uncounted:
        hosts = ", ".join(usage.uncounted)
        lines.append(
            f"  not counted: {hosts}, down, without an API key or started by an earlier version; start anew: ./firstlight serve"
        )
    return lines


def aligned(rows: Sequence[Sequence[str]], *, words: int) -> Iterable[str]:
    """Return rows as lines of a table: so many first columns have words, which are on the left; numbers are on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [f"{{:{'<' if place < words else '>'}{width}}}" for place, width in enumerate(widths)]
    return ["  ".join(["", *cells]).format(*row).rstrip() for row in rows]
