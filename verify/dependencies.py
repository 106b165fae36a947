"""Checks form a tree: a check's premises end before it begins, and where one failed it is skipped under the first cause's name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verify.records import NEEDS, Check, CheckResult, Status

FAILED: frozenset[Status] = frozenset({"fail", "error"})


class CheckCall(NamedTuple):
    """One call of a check: on a device, or null for the host."""

    check: Check
    device: str | None

    def __str__(self) -> str:
        return self.check.id if self.device is None else f"{self.check.id} on {self.device}"


def with_dependencies(chosen: Iterable[Check], known: Sequence[Check]) -> list[Check]:
    """The chosen checks and all that they rest on, in the order of `known`."""
    by_id = {check.id: check for check in known}
    wanted, found = list(chosen), set()
    while wanted:
        check = wanted.pop()
        if check.id not in found:
            found.add(check.id)
            wanted += [by_id[name] for name in check.requires]
    return [check for check in known if check.id in found]


def skipped_because(cause: str) -> CheckResult:
    """The outcome of a check that was not run, because of what failed before it."""
    return CheckResult("skip", f"{NEEDS}{cause}")


class DependencyTree:
    """Which calls may begin, as others end."""

    def __init__(self, keys: Iterable[CheckCall]) -> None:
        self._waiting = list(keys)
        self._devices: dict[str, list[str | None]] = {}
        for key in self._waiting:
            self._devices.setdefault(key.check.id, []).append(key.device)
        self._dependencies = {name for key in self._waiting for name in key.check.requires}
        self._ended: dict[tuple[str, str | None], str | None] = {}
        """Null where it did not fail, else the first cause."""

    def end(self, key: CheckCall, status: Status) -> None:
        """Take down how a call ended."""
        self._ended[key.check.id, key.device] = str(key) if status in FAILED else None

    def ready(self, after: CheckCall | None = None) -> tuple[list[CheckCall], list[tuple[CheckCall, str]]]:
        """Calls that may begin now, and those that never will, each with its first cause; none of them is told again."""
        begin: list[CheckCall] = []
        never: list[tuple[CheckCall, str]] = []
        if after and after.check.id not in self._dependencies:
            return begin, never
        is_settled = False
        while not is_settled:  # a call that is skipped may be another one's premise
            is_settled = True
            for key in list(self._waiting):
                dependencies = self._dependencies_of(key)
                cause = next((cause for one in dependencies if (cause := self._ended.get(one))), None)
                if cause is None and not all(one in self._ended for one in dependencies):
                    continue
                self._waiting.remove(key)
                if cause is None:
                    begin.append(key)
                else:
                    never.append((key, cause))
                    self._ended[key.check.id, key.device] = cause
                    is_settled = False
        return begin, never

    def _dependencies_of(self, key: CheckCall) -> list[tuple[str, str | None]]:
        """Of a premise on each device the one on the same device, for a check of the host that on all of them."""
        found: list[tuple[str, str | None]] = []
        for name in key.check.requires:
            devices = self._devices.get(name, [])
            found += [(name, device) for device in devices if device in (None, key.device) or key.device is None]
        return found
