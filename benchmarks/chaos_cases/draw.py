"""What a seed draws: the fault, the change and the moment of each run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from random import Random
from typing import Protocol

from benchmarks.chaos_cases.changes import CHANGES
from benchmarks.chaos_cases.moments import MOMENTS


class Drawable(Protocol):
    """What a fault says of when it can be made."""

    @property
    def moments(self) -> tuple[str, ...]:
        """Moments at which it has an effect; all when empty."""

    @property
    def changes(self) -> tuple[str, ...]:
        """Changes during which it has an effect; all when empty."""

    @property
    def seconds(self) -> tuple[float, float]:
        """How long it lasts, at least and at most; zero where it lasts as long as the run, or is over at once."""


@dataclass(frozen=True)
class Trial:
    """One run of the benchmark."""

    number: int
    fault: str
    change: str
    moment: str
    delay_s: float
    """From the beginning of the moment."""
    lasts_s: float
    seed: str
    """For what the fault itself draws, such as a file."""

    def random(self) -> Random:
        """Return the numbers of this run."""
        return Random(self.seed)


def draw(seed: int, number: int, faults: Mapping[str, Drawable]) -> Trial:
    """Return a run.

    Faults are drawn like cards: each once before one comes again, so that few runs have many kinds.

    Args:
        seed: The benchmark's seed.
        number: The run, counted from 0.
        faults: The faults by name.
    """
    cycle, place = divmod(number, len(faults))
    order = sorted(faults)
    Random(f"{seed}/{cycle}").shuffle(order)
    fault = faults[order[place]]
    own = f"{seed}/{number}"
    random = Random(own)
    possible = [name for name in CHANGES if _fits(fault, name)]
    change = random.choices(possible, [CHANGES[name].weight for name in possible])[0]
    moment = random.choice(_moments(fault, change))
    return Trial(
        number=number,
        fault=order[place],
        change=change,
        moment=moment,
        delay_s=round(random.uniform(0, MOMENTS[moment].longest_s), 3),
        lasts_s=round(random.uniform(*fault.seconds), 1),
        seed=own,
    )


def to_do(seed: int, runs: int, faults: Mapping[str, Drawable], done: Collection[int], only: str | None) -> list[Trial]:
    """Return the runs that are missing among the first of a seed.

    Args:
        seed: The benchmark's seed.
        runs: How many there are to be in all.
        faults: The faults by name.
        done: The numbers of runs that have a row.
        only: A fault; the first runs with it are counted. None: all.
    """
    trials = (draw(seed, number, faults) for number in count())
    wanted = islice((trial for trial in trials if only in (None, trial.fault)), runs)
    return [trial for trial in wanted if trial.number not in done]


def _fits(fault: Drawable, change: str) -> bool:
    return (not fault.changes or change in fault.changes) and bool(_moments(fault, change))


def _moments(fault: Drawable, change: str) -> Sequence[str]:
    return [name for name in CHANGES[change].moments if not fault.moments or name in fault.moments]
