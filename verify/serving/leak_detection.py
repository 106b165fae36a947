"""Whether memory grows: a line fitted to samples, told from noise by its standard error. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOUR_S = 3600.0
MIB = 1 << 20


@dataclass(frozen=True)
class Growth:
    """The fitted line. Bytes and seconds; `error` is the standard error of the slope."""

    slope: float
    error: float
    added: float
    """What the line adds from the first sample that counts to the last one."""
    start: float
    samples: int

    def is_real(self, rules: Mapping[str, Any]) -> bool:
        """Whether it is more than noise, and enough to matter."""
        enough = max(rules["least_bytes"], rules["least_share"] * self.start)
        return bool(self.added >= enough and self.slope >= rules["standard_errors"] * self.error)

    @property
    def mib_per_hour(self) -> float:
        return self.slope * HOUR_S / MIB


def growth(samples: Sequence[tuple[float, float]], rules: Mapping[str, Any]) -> Growth | None:
    """The line through (seconds, bytes) after the warm-up; null where too few samples are left."""
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
