"""Order of checks: each one starts after the checks it requires, and is skipped if one of them failed."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from verify.records import NEEDS, Check, CheckResult, Status

FAILED: frozenset[Status] = frozenset({"fail", "error"})


class CheckCall(NamedTuple):
    """One call of a check on a device; None means the host."""

    check: Check
    device: str | None

    def __str__(self) -> str:
        return self.check.id if self.device is None else f"{self.check.id} on {self.device}"


def with_dependencies(chosen: Iterable[Check], known: Sequence[Check]) -> list[Check]:
    """Return the chosen checks and all that they require, in the order of `known`."""
    by_id = {check.id: check for check in known}
    wanted, found = list(chosen), set()
    while wanted:
        check = wanted.pop()
        if check.id not in found:
            found.add(check.id)
            wanted += [by_id[name] for name in check.requires]
    return [check for check in known if check.id in found]


def skipped_because(cause: str) -> CheckResult:
    """Return the result of a check that was skipped because `cause` failed."""
    return CheckResult("skip", f"{NEEDS}{cause}")


class DependencyTree:
    """Calls of checks that wait for other checks."""

    def __init__(self, keys: Iterable[CheckCall]) -> None:
        self._waiting = list(keys)
        self._devices: dict[str, list[str | None]] = {}
        for key in self._waiting:
            self._devices.setdefault(key.check.id, []).append(key.device)
        self._dependencies = {name for key in self._waiting for name in key.check.requires}
        self._ended: dict[tuple[str, str | None], str | None] = {}
        """None for a call that passed, otherwise the first cause of its failure."""

    def end(self, key: CheckCall, status: Status) -> None:
        """Record the status of a finished call."""
        self._ended[key.check.id, key.device] = str(key) if status in FAILED else None

    def ready(self, after: CheckCall | None = None) -> tuple[list[CheckCall], list[tuple[CheckCall, str]]]:
        """Return the calls that can start now, and those that never will with their first cause. Each call is returned once."""
        begin: list[CheckCall] = []
        never: list[tuple[CheckCall, str]] = []
        if after and after.check.id not in self._dependencies:
            return begin, never
        is_settled = False
        while not is_settled:  # a skipped call may itself be required by another one
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
        """Return the calls that a call requires: on its own device, or on all devices if it covers the host."""
        found: list[tuple[str, str | None]] = []
        for name in key.check.requires:
            devices = self._devices.get(name, [])
            found += [(name, device) for device in devices if device in (None, key.device) or key.device is None]
        return found
