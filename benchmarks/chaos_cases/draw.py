"""What a seed draws: the fault, the change and the moment of each run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import count, islice
from random import Random

from benchmarks.chaos_cases.changes import CHANGES
from benchmarks.chaos_cases.faults import FAULTS, Fault
from benchmarks.chaos_cases.moments import MOMENTS


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


def draw(seed: int, number: int) -> Trial:
    """Return a run of a seed; the first one has number 0.

    Faults are drawn like cards: each once before one comes again, so that few runs have many kinds.
    """
    cycle, place = divmod(number, len(FAULTS))
    order = sorted(FAULTS)
    Random(f"{seed}/{cycle}").shuffle(order)
    fault = FAULTS[order[place]]
    own = f"{seed}/{number}"
    random = Random(own)
    possible = [name for name in CHANGES if (not fault.changes or name in fault.changes) and _moments(fault, name)]
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


def _moments(fault: Fault, change: str) -> list[str]:
    return [name for name in CHANGES[change].moments if not fault.moments or name in fault.moments]


def to_do(seed: int, runs: int, done: Collection[int], only: str | None) -> list[Trial]:
    """Return the runs that are missing among the first of a seed.

    Args:
        seed: The benchmark's seed.
        runs: How many there are to be in all.
        done: The numbers of runs that have a row.
        only: A fault; the first runs with it are counted. None: all.
    """
    trials = (draw(seed, number) for number in count())
    wanted = islice((trial for trial in trials if only in (None, trial.fault)), runs)
    return [trial for trial in wanted if trial.number not in done]
