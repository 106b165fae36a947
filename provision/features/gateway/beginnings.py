"""The choice of hosts by prefixes: requests with one beginning reach one host. Pure.

Where each request goes is computed from its beginning by consistent hashing with bounded loads (arXiv 1608.01350), so nothing has to
be remembered: a reload, a restart and a second gateway choose alike. A host whose load is at its bound is left out, and so is one that is
drained or down; their requests go to the next hosts on the ring.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from provision.core.tables import rows_of

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


def ring_ids(servers: Iterable[str]) -> dict[str, int]:
    """Return the number of each server in HAProxy, by its name, so that another host in the list moves none of the others on the ring."""
    found: dict[str, int] = {}
    for server in sorted(servers):
        number = int.from_bytes(hashlib.sha256(server.encode()).digest()[:4]) % (_RING_IDS - 1)
        while number + 1 in found.values():
            number = (number + 1) % (_RING_IDS - 1)
        found[server] = number + 1
    return found
