"""Which load bound the gateway needs where beginnings of requests choose the host: a simulation.

    python -m benchmarks.prefix_choice

Requests come as conversations, each with a beginning of its own, or about documents of which few are asked for most. HAProxy's choice is
computed as its `lb_chash.c` does: the ring, and the bound by `hash-balance-factor`. Each host remembers the beginnings that it saw last.
Nothing is timed, and equal seeds give equal figures, so the result is always kept.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import random
import sys
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import header, publish

HOSTS = (2, 3, 4, 8, 16, 50)
FACTORS = (0, 125, 150, 175, 200, 300)
"""Percent; 0: no bound."""
LOADS = {"light": 1, "heavy": 32}
"""Requests at a time, a host in the mean."""
REQUESTS_OF_HOST, WARM_UP = 400, 0.2
TURNS, THINKING = 6, 3.0
"""Requests of a conversation in the mean, and the pause between two, in durations of a request."""
DOCUMENTS_OF_HOST, REMEMBERED = 100, 200
"""Documents for each host, and the beginnings that a host has the memory for."""
POINTS, WEIGHT = 1600, 1600
"""Of each host on HAProxy's ring: weight 100 times 16 (`BE_WEIGHT_SCALE`)."""


@dataclass
class Hosts:
    """The state of all hosts, and the choice among them."""

    count: int
    factor: int | None
    """Percent as of `hash-balance-factor`; None: the host with the fewest requests."""
    rng: random.Random
    now: list[int] = field(init=False)
    ring: list[tuple[int, int]] = field(init=False)
    all: int = 0

    def __post_init__(self) -> None:
        self.now = [0] * self.count
        self.ring = sorted((self.rng.getrandbits(32), host) for host in range(self.count) for _ in range(POINTS))

    def choose(self, point: int) -> int:
        """Return the host of a request whose beginning has this point on the ring."""
        if self.factor is None:
            least = min(self.now)
            return self.rng.choice([host for host, now in enumerate(self.now) if now == least])
        at = bisect.bisect(self.ring, (point,)) % len(self.ring)
        before, after = self.ring[at - 1], self.ring[at]
        if (point - before[0]) % 2**32 <= (after[0] - point) % 2**32:
            at -= 1
        while self.factor and not self._has_room(self.ring[at][1]):
            at = (at + 1) % len(self.ring)
        return self.ring[at][1]

    def _has_room(self, host: int) -> bool:
        """Return what `chash_server_is_eligible` of HAProxy 2.6 says."""
        assert self.factor is not None
        whole = WEIGHT * self.count
        slots = ((self.all + 1) * self.factor + 99) // 100
        each, rest = divmod(slots, whole)
        own = WEIGHT * each + (host + 1) * WEIGHT * rest // whole - host * WEIGHT * rest // whole
        return self.now[host] < max(own, 1)


def arrivals(kind: str, hosts: int, load: int, rng: random.Random) -> Iterator[tuple[float, int]]:
    """Yield the time of each request, in durations of a request, and its beginning; in order."""
    rate = hosts * load
    if kind == "documents":
        documents = hosts * DOCUMENTS_OF_HOST
        bounds = list(itertools.accumulate(1 / rank for rank in range(1, documents + 1)))
        now = 0.0
        while True:
            now += rng.expovariate(rate)
            yield now, bisect.bisect(bounds, rng.random() * bounds[-1])
    starts, waiting, number = 0.0, [(0.0, 0)], 0
    while True:
        now, conversation = heapq.heappop(waiting)
        if now == starts:
            number += 1
            starts += rng.expovariate(rate / TURNS)
            heapq.heappush(waiting, (starts, number))
        if rng.random() > 1 / TURNS:
            heapq.heappush(waiting, (now + 1 + rng.expovariate(1 / THINKING), conversation))
        yield now, conversation


def simulate(kind: str, count: int, load: int, factor: int | None, seed: int = 1) -> dict[str, float]:
    """Return what one choice does with one kind of traffic.

    `met`: the share of requests, among those whose beginning was sent before, that reach a host which remembers it.
    `most`: requests at the most loaded host over the mean of all hosts, in the mean over all arrivals.
    """
    rng = random.Random(seed)
    hosts = Hosts(count, factor, random.Random(seed + 1))
    remembered: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(count)]
    points: dict[int, int] = {}
    ends: list[tuple[float, int]] = []
    requests = count * REQUESTS_OF_HOST
    again = met = 0
    peaks = 0.0
    for number, (now, beginning) in enumerate(itertools.islice(arrivals(kind, count, load, rng), requests)):
        while ends and ends[0][0] <= now:
            hosts.now[heapq.heappop(ends)[1]] -= 1
            hosts.all -= 1
        known = beginning in points
        host = hosts.choose(points.setdefault(beginning, rng.getrandbits(32)))
        hosts.now[host] += 1
        hosts.all += 1
        heapq.heappush(ends, (now + rng.expovariate(1), host))
        memory = remembered[host]
        if number >= requests * WARM_UP:
            again += known
            met += known and beginning in memory
            peaks += max(hosts.now) * count / hosts.all
        memory[beginning] = None
        memory.move_to_end(beginning)
        if len(memory) > REMEMBERED:
            memory.popitem(last=False)
    return {"met": round(met / again, 3), "most": round(peaks / (requests * (1 - WARM_UP)), 2)}


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    result: dict[str, Any] = header("prefix-choice")
    result["figures"] = [
        {
            "traffic": kind,
            "load": name,
            "hosts": count,
            "fewest requests": simulate(kind, count, load, None),
            **{str(factor): simulate(kind, count, load, factor) for factor in FACTORS},
        }
        for kind in ("conversations", "documents")
        for name, load in LOADS.items()
        for count in HOSTS
    ]
    publish(result, "prefix-choice", always=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
