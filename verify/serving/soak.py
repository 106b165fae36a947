"""Light load on the service for minutes, to detect failed requests, and growing memory by a line fitted to samples of it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from verify.records import CheckResult, Figure
from verify.serving.client import Client, RequestError
from verify.serving.resource_usage import MIB, Usage, usage
from verify.serving.service import Service
from verify.tables import table

HOUR_S = 3600.0
ANSWER_S = 120.0
LEAST_TOKEN = 3
"""Smaller ids are special tokens in most vocabularies."""


@dataclass
class SoakSamples:
    """Observations of a soak."""

    asked: int = 0
    failed: list[str] = field(default_factory=list)
    samples: list[tuple[float, Usage]] = field(default_factory=list)
    """Seconds since the start, and memory usage at that time."""


def soak(service: Service, *, minutes: float, between: Callable[[int], None], pause_s: float) -> SoakSamples:
    """Send requests in rounds until the time is over. Raises OSError where this user may not read the endpoint's key.

    Args:
        between: Called with the number of each completed round.
    """
    seen, key, began = SoakSamples(), service.api_key(), time.monotonic()
    load = table("serving")["load"] | table("soak")["load"]
    number = 0
    while time.monotonic() - began < 60 * minutes:
        seen.failed += _round(service, key, number, load)
        seen.asked += load["at_once"]
        seen.samples.append((time.monotonic() - began, usage(service)))
        between(number)
        number += 1
        time.sleep(pause_s)
    return seen


def _round(service: Service, key: str | None, number: int, load: dict[str, Any]) -> list[str]:
    """Send parallel requests and return their problems. All threads end first, because this process forks for kernels."""
    with ThreadPoolExecutor(load["at_once"]) as pool:
        answers = pool.map(lambda place: _ask(service, key, number, place, load), range(load["at_once"]))
    return [problem for problem in answers if problem]


def evaluate(seen: SoakSamples, service: Service) -> CheckResult:
    """Fail on requests without an answer, and on memory growth beyond noise."""
    rules = table("soak")["memory"]
    problems, short = [], None
    if seen.failed:
        problems.append(f"{len(seen.failed)} of {seen.asked} requests got no answer: {seen.failed[0]}")
    figures = [Figure("requests without an answer", len(seen.failed), "count", ceiling=0)]
    for name, sizes in _memories(seen).items():
        line = growth(sizes, rules)
        if line is None:
            short = (
                f"{len(sizes)} samples of memory are too few to detect growth: after a warm-up of"
                f"{rules['warm_up_share']:.0%} of them {rules['least_samples']} must be left"
            )
            continue
        bound = max(rules["standard_errors"] * line.error, 0.0) * HOUR_S / MIB
        figures.append(Figure(name, line.mib_per_hour, "MiB/h", ceiling=round(bound, 3), source=rules["source"]))
        if line.is_real(rules):
            grown = f"{line.added / MIB:.0f} MiB in {sizes[-1][0] - sizes[-line.samples][0]:.0f} s"
            problems.append(f"{name} grows by {line.mib_per_hour:.0f} MiB an hour ({grown})")
    evidence = {"samples": [[round(at, 1), one.host, one.gpu] for at, one in seen.samples], "unit": service.name}
    if problems:
        remedy = "compare with another release: ./firstlight plan --explain; restart it before memory runs out"
        return CheckResult("fail", "; ".join(problems), tuple(figures), evidence, remedy)
    if short:
        remedy = "soak longer: ./firstlight verify soak --minutes 10"
        return CheckResult("error", short, tuple(figures), evidence, remedy)
    return CheckResult("ok", f"{seen.asked} requests answered, and memory does not grow", tuple(figures), evidence)


def _memories(seen: SoakSamples) -> dict[str, list[tuple[float, float]]]:
    found = {"memory of the host": [(at, float(one.host)) for at, one in seen.samples]}
    on_gpus = [(at, float(one.gpu)) for at, one in seen.samples if one.gpu]
    return found | ({"memory of GPUs": on_gpus} if on_gpus else {})


def _ask(service: Service, key: str | None, turn: int, place: int, load: dict[str, Any]) -> str | None:
    """Request a completion of a unique prompt; return the problem, None if there is none."""
    prompt = [LEAST_TOKEN + (turn * 7 + place * 31 + step * 13) % 200 for step in range(load["input_tokens"])]
    body = {"prompt": prompt, "max_tokens": load["output_tokens"], "ignore_eos": True}
    try:
        Client(service.endpoint, ANSWER_S).post("/v1/completions", body, key)
    except RequestError as problem:
        return str(problem)
    return None


@dataclass(frozen=True)
class Growth:
    """The fitted line, in bytes and seconds; `error` is the standard error of the slope."""

    slope: float
    error: float
    added: float
    """Growth along the line from the first evaluated sample to the last."""
    start: float
    samples: int

    def is_real(self, rules: Mapping[str, Any]) -> bool:
        """Return whether the growth exceeds the noise, and is large enough to matter."""
        enough = max(rules["least_bytes"], rules["least_share"] * self.start)
        return bool(self.added >= enough and self.slope >= rules["standard_errors"] * self.error)

    @property
    def mib_per_hour(self) -> float:
        return self.slope * HOUR_S / MIB


def growth(samples: Sequence[tuple[float, float]], rules: Mapping[str, Any]) -> Growth | None:
    """Fit a line through (seconds, bytes) after the warm-up; return None with too few samples."""
    kept = samples[math.ceil(rules["warm_up_share"] * len(samples)) :]
    if len(kept) < rules["least_samples"]:
        return None
    count = len(kept)
    times, sizes = zip(*kept, strict=True)
    middle, mean = sum(times) / count, sum(sizes) / count
    spread = sum((at - middle) ** 2 for at in times)
    slope = sum((at - middle) * (size - mean) for at, size in kept) / spread
    rest = sum((size - mean - slope * (at - middle)) ** 2 for at, size in kept)
    error = math.sqrt(rest / (count - 2) / spread)
    span = times[-1] - times[0]
    return Growth(slope, error, slope * span, mean - slope * (middle - times[0]), count)
