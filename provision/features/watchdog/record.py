"""What the watchdog of a host did, as it noted it there. Pure."""

from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

RECORD = "health-agent/watchdog.json"
"""Below the prefix of a host."""


@dataclass(frozen=True)
class Event:
    """One time that the engine hung."""

    at: str
    """UTC, as in the names of runs: 20261127T043320Z."""
    action: str
    """`restarted` or `left down`."""
    reason: str
    dump: str
    """File on the host with threads and stacks."""


@dataclass(frozen=True)
class WatchdogRecord:
    """The newest events, the last one last."""

    restarts: int = 0
    """Restarts since the installation."""
    events: tuple[Event, ...] = ()

    def since(self, run: str) -> tuple[Event, ...]:
        """Return the events after the start of a run, or after any other time in its form."""
        return tuple(one for one in self.events if one.at > run)


def parse_record(text: str) -> WatchdogRecord:
    """Return a record; an empty one where there is none, or none that can be read."""
    try:
        return TypeAdapter(WatchdogRecord).validate_json(text)
    except ValidationError:
        return WatchdogRecord()


def sentence(events: tuple[Event, ...], *, is_down: bool) -> str:
    """Return what a watchdog did, in one sentence; empty where it did nothing.

    Args:
        events: What it did lately.
        is_down: Whether the service does not run.
    """
    if not events:
        return ""
    last = events[-1]
    where = f"{last.reason}; threads and stacks in {last.dump}"
    if last.action == "left down":
        return f"its watchdog {'left it down' if is_down else 'had left it down'} at {last.at}: {where}"
    count = sum(one.action == "restarted" for one in events)
    times = "once" if count == 1 else f"{count} times"
    return f"its watchdog restarted it {times}, last at {last.at}: {where}"
