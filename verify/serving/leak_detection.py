"""Detection of growing memory: a line fitted to samples, with the standard error of its slope."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOUR_S = 3600.0
MIB = 1 << 20


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
