"""Tokens of a gateway's clients: what hosts have counted, and what is left of budgets. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SILENT_S = 60
"""Seconds after which a host that tells no counts is named."""


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
    """Return what HAProxy told with tokens.lua.

    Args:
        text: Its answer; one that is something else has no clients.
        names: Hosts by their names in HAProxy.
    """
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


def document(usages: Mapping[str, Usage]) -> dict[str, Any]:
    """Return what `./firstlight gateway usage --json` prints (docs/guides/gateway.md), from usages by gateway."""
    return {
        "gateways": [
            {
                "gateway": gateway,
                "clients": [
                    {"client": client} | {name: asdict(one) | {"left": one.left} for name, one in windows.items()}
                    for client, windows in usage.clients.items()
                ],
                "uncounted": [*usage.uncounted],
            }
            for gateway, usage in usages.items()
        ]
    }


def render(usages: Mapping[str, Usage]) -> str:
    """Return the same as text: a table for each gateway."""
    return "\n".join(line for gateway, usage in usages.items() for line in _lines(gateway, usage))


def _lines(gateway: str, usage: Usage) -> list[str]:
    if not usage.clients:
        why = "it was set up by an earlier version, or its HAProxy is built without Lua"
        return [f"{gateway}: knows no tokens of clients: {why}; set it up again: ./firstlight gateway"]
    rows: list[tuple[str, ...]] = [("client", "in this", "prompt", "generated", "limit", "left")]
    rows += [
        (client, window, *(_number(one) for one in (tokens.prompt, tokens.generated, tokens.limit, tokens.left)))
        for client, windows in usage.clients.items()
        for window, tokens in windows.items()
    ]
    lines = [f"{gateway}:", *aligned(rows, words=2)]
    if usage.uncounted:
        hosts = ", ".join(usage.uncounted)
        lines.append(f"  not counted: {hosts}, down or started by an earlier version; start anew: ./firstlight serve")
    return lines


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def aligned(rows: Sequence[Sequence[str]], *, words: int) -> Iterable[str]:
    """Return rows as lines of a table: so many first columns have words, which are on the left; numbers are on the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [f"{{:{'<' if place < words else '>'}{width}}}" for place, width in enumerate(widths)]
    return ["  ".join(["", *cells]).format(*row).rstrip() for row in rows]
