"""Light load on the service, to detect failed requests, and growing memory and descriptors by lines fitted over the requests."""

import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import linear_regression, pvariance
from typing import Any

from verify.files import printed
from verify.records import CheckResult, Figure
from verify.serving.client import Client, RequestError
from verify.serving.service import Service
from verify.serving.vectors import vectors
from verify.tables import table

KIB, MIB = 1 << 10, 1 << 20
QUERY = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
QUERY_S = 15.0
CLOSING_S = 0.2
"""A server closes a connection after its client has."""


@dataclass(frozen=True)
class Usage:
    """Bytes; `gpu` is None if nvidia-smi does not report it."""

    host: int
    gpu: int | None

    @property
    def total(self) -> int:
        return self.host + (self.gpu or 0)


def usage(service: Service) -> Usage:
    """Return the usage of all processes of a service, without mapped files, which other programs share."""
    pids = service.pids()
    host = sum(size for pid in pids for size in _sizes(pid))
    return Usage(host, gpu_bytes(printed(QUERY, limit_s=QUERY_S, may_fail=False), pids))


def open_descriptors(service: Service) -> int:
    """Return how many descriptors the processes of a service have open after the last request. Raises PermissionError."""
    time.sleep(CLOSING_S)
    total = 0
    for pid in service.pids():
        with suppress(FileNotFoundError):  # it has ended
            total += len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - thousands of names, without their paths
    return total


def gpu_bytes(listed: str | None, pids: Collection[int]) -> int | None:
    """Return the GPU memory of some processes from nvidia-smi's lines `pid, MiB`; None without such a list."""
    if listed is None:
        return None
    total = 0
    for line in listed.splitlines():
        pid, _, size = line.partition(",")
        if pid.strip().isdigit() and int(pid) in pids and size.strip().isdigit():
            total += int(size) * MIB
    return total


def _sizes(pid: int) -> list[int]:
    """Return the bytes that a process has of its own and in shared memory; none if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return []
    return [int(line.split()[1]) * KIB for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]


PER = 1000
"""Growth is given for this many requests."""
ANSWER_S = 120.0
LEAST_TOKEN = 3
"""Smaller ids are special tokens in most vocabularies."""


@dataclass(frozen=True)
class Sample:
    """What the service uses after a number of requests."""

    seconds: float
    """Since the start of the soak."""
    requests: int
    usage: Usage
    descriptors: int


@dataclass
class SoakSamples:
    """Observations of a soak."""

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)


def soak_service(service: Service, *, seconds: float, between: Callable[[int], None], pause_s: float) -> SoakSamples:
    """Send requests in rounds until the time is over. Raises OSError where this user may not read the key or the processes.

    After `seconds` no further round starts. `between` is called with the number of each completed round.
    """
    seen, client, began = SoakSamples(), Client(service.endpoint, ANSWER_S, service.api_key()), time.monotonic()
    load = table("serving")["load"] | table("soak")["load"]
    number = 0
    while time.monotonic() - began < seconds:
        # All threads end before `between`, because this process forks for kernels.
        with ThreadPoolExecutor(load["at_once"]) as pool:
            ask = partial(_ask, client, service.task, number, load=load)
            seen.failed += filter(None, pool.map(ask, range(load["at_once"])))
        seen.asked += load["at_once"]
        at = time.monotonic() - began
        seen.samples.append(Sample(at, seen.asked, usage(service), open_descriptors(service)))
        between(number)
        number += 1
        time.sleep(pause_s)
    return seen


def evaluate_soak(seen: SoakSamples, service: str) -> CheckResult:
    """Fail on requests without an answer, and on growth of memory or descriptors beyond noise.

    The result is `error` where the soak was too short to detect growth. `service` is the name of its unit, for the evidence.
    """
    rules, problems, short = table("soak"), [], None
    if seen.failed:
        problems.append(f"{len(seen.failed)} of {seen.asked} requests got no answer: {seen.failed[0]}")
    figures = [Figure("requests without an answer", len(seen.failed), "count", ceiling=0)]
    for kind, name, verb, unit, values in _series(seen):
        bounds = rules["growth"] | rules[kind]
        line = growth(values, bounds)
        if line is None:
            short = (
                f"{len(values)} samples are too few to detect growth: after a warm-up of {bounds['warm_up_share']:.0%} of them "
                f"{bounds['least_samples']} must be left"
            )
            continue
        by, bound = round(line.slope * PER, 3), round(line.bound * PER, 3)
        figures.append(
            Figure(name, by, f"{unit or ' count'}/{PER} requests".strip(), ceiling=bound, source=bounds["source"])
        )
        if line.is_real:
            over = f"{line.added:.0f}{unit} over {line.span:.0f}"
            problems.append(f"{name} {verb} by {by:,.1f}{unit} with {PER:,} requests ({over})")
    step = math.ceil(len(seen.samples) / rules["evidence"]["most_samples"]) or 1
    samples = [
        [round(one.seconds, 1), one.requests, one.usage.host, one.usage.gpu, one.descriptors]
        for one in seen.samples[::step]
    ]
    evidence = {"samples": samples, "unit": service}
    if problems:
        remedy = "compare with another release: ./firstlight plan --explain; restart it before it runs out of them"
        return CheckResult("fail", "; ".join(problems), tuple(figures), evidence, remedy)
    if short:
        remedy = "soak longer: ./firstlight verify soak --minutes 10"
        return CheckResult("error", short, tuple(figures), evidence, remedy)
    text = f"{seen.asked} requests answered, and neither memory nor open descriptors grow"
    return CheckResult("ok", text, tuple(figures), evidence)


def _series(seen: SoakSamples) -> Iterator[tuple[str, str, str, str, list[tuple[float, float]]]]:
    """Yield what may grow: the table with its bounds, its name with a verb and a unit, and its values by number of requests."""
    host = [(float(one.requests), one.usage.host / MIB) for one in seen.samples]
    gpus = [(float(one.requests), one.usage.gpu / MIB) for one in seen.samples if one.usage.gpu]
    descriptors = [(float(one.requests), float(one.descriptors)) for one in seen.samples]
    yield "memory", "memory of the host", "grows", " MiB", host
    if gpus:
        yield "memory", "memory of GPUs", "grows", " MiB", gpus
    yield "descriptors", "open descriptors", "grow", "", descriptors


def _ask(client: Client, task: str, turn: int, place: int, load: dict[str, Any]) -> str | None:
    """Request a completion of a unique prompt; return the problem, None if there is none."""
    prompt = [LEAST_TOKEN + (turn * 7 + place * 31 + step * 13) % 200 for step in range(load["input_tokens"])]
    body = {"prompt": prompt, "max_tokens": load["output_tokens"], "ignore_eos": True}
    try:
        if task == "generate":
            client.post("/v1/completions", body)
        else:
            text = " ".join(map(str, prompt))
            vectors(client, task, [text if task == "embed" else [text, text]])
    except RequestError as problem:
        return str(problem)
    return None


@dataclass(frozen=True)
class Growth:
    """The line fitted to values over requests."""

    slope: float
    """The smallest of the whole line and of its halves: a single step is no growth."""
    bound: float
    """Slope from which on the growth exceeds the noise, and is large enough to matter."""
    added: float
    """What the slope adds from the first evaluated sample to the last."""
    span: float
    """Requests between these two."""

    @property
    def is_real(self) -> bool:
        """Whether the values grow."""
        return self.slope >= self.bound


def growth(samples: Sequence[tuple[float, float]], rules: Mapping[str, Any]) -> Growth | None:
    """Return the line fitted through (requests, value) after the warm-up, with its bound; None with too few samples.

    `rules` are `growth` of data/soak.toml, and the `least` and `least_share` that the values must grow by, in their unit.
    """
    kept = samples[math.ceil(rules["warm_up_share"] * len(samples)) :]
    if len(kept) < rules["least_samples"]:
        return None
    half = len(kept) // 2
    slope, error, start = _line(kept)
    span = kept[-1][0] - kept[0][0]
    enough = max(rules["least"], rules["least_share"] * start)
    steady = min(slope, _line(kept[:half])[0], _line(kept[half:])[0])
    return Growth(steady, max(enough / span, rules["standard_errors"] * error), steady * span, span)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Return the slope of the fitted line, its standard error, and the line's first value."""
    places, values = zip(*points, strict=True)
    slope, start = linear_regression(places, values)
    rest = sum((value - start - slope * at) ** 2 for at, value in points)
    spread = pvariance(places) * len(points)
    return slope, math.sqrt(rest / (len(points) - 2) / spread), start + slope * places[0]
