"""What goes through gateways: figures of each host, and which hosts may be drained. Pure."""

from __future__ import annotations

import csv
import difflib
import io
import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from provision.core.errors import FirstlightError, ServeError, UsageError

By = Literal["operator", "run"]
"""Who drains a host. A run takes back only what a run drained."""
COUNTERS = {"sessions": "scur", "requests": "stot", "errors_5xx": "hrsp_5xx", "broken": "eresp"}
"""Columns of HAProxy's `show stat` (management guide, "Statistics and monitoring", CSV format) by our names."""


@dataclass(frozen=True)
class HostTraffic:
    """One host behind one gateway. Counts begin with HAProxy's last start or reload, except those that it still works on."""

    host: str
    model: str
    state: Literal["up", "down", "drained"]
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


@dataclass(frozen=True)
class Traffic:
    """All hosts behind one gateway, by model and name."""

    gateway: str
    hosts: tuple[HostTraffic, ...]

    def of(self, name: str) -> HostTraffic | None:
        """Return a host by its name; None where this gateway does not know it."""
        return next((one for one in self.hosts if one.host == name), None)

    def drained(self) -> set[str]:
        """Return the hosts that are drained."""
        return {one.host for one in self.hosts if one.state == "drained"}

    def in_traffic(self, model: str) -> set[str]:
        """Return the hosts that get new requests for a model."""
        return {one.host for one in self.hosts if one.model == model and one.state == "up"}


def request_text(*, drain: Sequence[str] = (), ready: Sequence[str] = (), by: By = "operator") -> str:
    """Return what `onhost/traffic.py change` is asked; without hosts it only answers."""
    return json.dumps({"drain": [*drain], "ready": [*ready], "by": by})


def command_of(python: str, folder: str, request: str) -> str:
    """Return the command that asks a gateway.

    Args:
        python: The gateway's Python.
        folder: The folder that it keeps its files in.
        request: Result of `request_text`.
    """
    return shlex.join([python, "-I", f"{folder}/current/traffic.py", "change", request])


def parse(gateway: str, answer: str) -> Traffic:
    """Read the answer of `onhost/traffic.py`.

    Raises:
        ServeError: HAProxy does not run there, or refused.
    """
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
        (process["is_new"], row) for process in document["processes"] for row in csv.DictReader(_table(process["stat"]))
    ]
    weights = Counter[str]()
    for is_new, row in rows:
        if is_new and row["pxname"].startswith("model-") and _is_up(row):
            weights[row["pxname"]] += _number(row["weight"])
    hosts = [_host(name, server, rows, weights, document["drained"]) for name, server in document["servers"].items()]
    return Traffic(gateway, tuple(sorted(hosts, key=lambda one: (one.model, one.host))))


def _table(stat: str) -> io.StringIO:
    return io.StringIO(stat.removeprefix("# "))


def _is_up(row: Mapping[str, str]) -> bool:
    return row["svname"] != "BACKEND" and row["status"].startswith("UP")


def _number(text: str | None) -> int:
    return int(text or 0)


def _host(
    name: str,
    server: Mapping[str, str],
    rows: Iterable[tuple[bool, Mapping[str, str]]],
    weights: Mapping[str, int],
    drained: Mapping[str, str],
) -> HostTraffic:
    own = [
        (is_new, row)
        for is_new, row in rows
        if row["svname"] == server["server"] and row["pxname"].startswith("model-")
    ]
    now = next(
        (row for is_new, row in own if is_new and row["pxname"] == server["backend"]), {"status": "", "weight": ""}
    )
    is_drained = name in drained or now["status"].startswith(("DRAIN", "MAINT"))
    is_up = now["status"].startswith("UP")
    total = weights[server["backend"]]
    return HostTraffic(
        host=name,
        model=server["model"],
        state="drained" if is_drained else "up" if is_up else "down",
        healthy=now["status"].startswith(("UP", "DRAIN")),
        share=round(100 * _number(now["weight"]) / total, 1) if is_up and not is_drained and total else 0.0,
        **{field: sum(_number(row[column]) for _, row in own) for field, column in COUNTERS.items()},
    )


def refusal(traffics: Iterable[Traffic], names: Sequence[str], known: Iterable[str]) -> FirstlightError | None:
    """Return why hosts cannot be drained or taken back: a name is unknown, or its host is behind no gateway.

    Args:
        traffics: The gateways.
        names: The hosts that were named.
        known: All hosts of the inventory.
    """
    behind = sorted({one.host for traffic in traffics for one in traffic.hosts})
    known = set(known)
    for name in names:
        if name in behind:
            continue
        if name in known:
            return UsageError(
                f"host `{name}` is behind no gateway of the inventory; behind one are {_listed(behind)}",
                hint="a host gets behind the gateways when it serves: ./firstlight gateway",
            )
        near = difflib.get_close_matches(name, behind, n=3, cutoff=0.5)
        return UsageError(
            f"the inventory has no host `{name}`",
            hint=f"did you mean {_listed(near)}?" if near else f"behind the gateways are {_listed(behind)}",
        )
    return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def left_without_host(traffics: Iterable[Traffic], names: Iterable[str]) -> FirstlightError | None:
    """Return the error of a model that no host would serve any more if hosts were drained."""
    drained = set(names)
    for traffic in traffics:
        for model in dict.fromkeys(one.model for one in traffic.hosts):
            serving = traffic.in_traffic(model)
            if serving and serving <= drained:
                return UsageError(
                    f"gateway `{traffic.gateway}` would have no host for model `{model}` without {_listed(sorted(serving))}",
                    hint="bring another host back first (./firstlight gateway status names them), "
                    "or add --force: then clients get 503",
                )
    return None


def waves(restarting: Sequence[str], traffics: Sequence[Traffic], at_once: int) -> list[list[str]]:
    """Return hosts in the order in which they may restart, so that of each model a host stays in traffic.

    Args:
        restarting: The hosts to restart, in inventory order.
        traffics: The gateways.
        at_once: Hosts of one model that may restart together.

    Returns:
        Hosts that restart together. The first are those that get no requests; it may be empty.
    """
    found: list[list[str]] = [[]]
    place = Counter[str]()
    for name in restarting:
        models = {one.model for traffic in traffics if (one := traffic.of(name)) and one.state == "up"}
        if not models:
            found[0].append(name)
            continue
        [model, *_] = sorted(models)
        others = min(len(traffic.in_traffic(model)) for traffic in traffics if name in traffic.in_traffic(model))
        number = 1 + place[model] // max(1, min(at_once, others - 1))
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
    """Return what `./firstlight gateway status --json` prints (docs/guides/serving.md)."""
    return {
        "gateways": [
            {"gateway": traffic.gateway, "hosts": [asdict(one) for one in traffic.hosts]} for traffic in traffics
        ]
    }


def render(traffics: Iterable[Traffic]) -> str:
    """Return the figures as text: a table for each gateway."""
    return "\n".join(line for traffic in traffics for line in _table_lines(traffic))


def _table_lines(traffic: Traffic) -> list[str]:
    rows: list[tuple[str, ...]] = [("model", "host", "state", "share", "now", "requests", "5xx", "broken")]
    for one in traffic.hosts:
        state = one.state if one.state != "drained" or one.healthy else "drained, down"
        counts = (one.sessions, one.requests, one.errors_5xx, one.broken)
        rows.append((one.model, one.host, state, f"{one.share:g} %", *map(str, counts)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) if place < 3 else cell.rjust(width) for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return [f"{traffic.gateway}:", *(f"  {line.rstrip()}" for line in lines)]
