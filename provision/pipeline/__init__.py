"""Commands and how they run. Here: a command with its options, and the batches of hosts that change together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provision.core.errors import UsageError
from provision.core.grouping import gather
from provision.core.models.inventory import Host
from provision.core.models.invocation import Invocation


@dataclass(frozen=True)
class Amount:
    """A number of hosts, or a share of all hosts of a run."""

    number: int
    is_percent: bool = False

    @classmethod
    def parse(cls, option: str, text: str, *, least: int) -> Amount:
        """Return the amount that the text of an option names: a whole number, or a percentage such as `25%`.

        Raises:
            UsageError: It is neither, below `least`, or above 100%.
        """
        found = re.fullmatch(r"([0-9]+)(%?)", text)
        hint = f"write a number of hosts or a share of them: {option} 5, or {option} 25%"
        if found is None:
            raise UsageError(f"`{option} {text}` is no whole number and no percentage", hint=hint)
        number, is_percent = int(found[1]), bool(found[2])
        if number < least or (is_percent and number > 100):
            most = "100%" if is_percent else "all hosts"
            raise UsageError(f"`{option} {text}` is not between {least} and {most}", hint=hint)
        return cls(number, is_percent)

    def of(self, hosts: int) -> int:
        """Return the number of hosts; shares are rounded down."""
        return hosts * self.number // 100 if self.is_percent else self.number

    def __str__(self) -> str:
        return f"{self.number}%" if self.is_percent else str(self.number)


@dataclass(frozen=True)
class Batching:
    """The choice of a run that changes its hosts batch by batch."""

    size: Amount
    max_fail: Amount = Amount(0)
    """Failed hosts with which the next batch still begins."""

    @classmethod
    def parse(cls, size: str | None, max_fail: str | None) -> Batching | None:
        """Return the choice of `--batch` and `--max-fail`; None without `--batch`.

        Raises:
            UsageError: An option cannot be read, or `--max-fail` stands alone.
        """
        if size is None:
            if max_fail is not None:
                raise UsageError(f"`--max-fail {max_fail}` needs `--batch`", hint="add --batch, such as --batch 25%")
            return None
        failing = Amount(0) if max_fail is None else Amount.parse("--max-fail", max_fail, least=0)
        return cls(Amount.parse("--batch", size, least=1), failing)

    def split(self, hosts: Sequence[Host]) -> Iterator[list[str]]:
        """Yield the names of each batch's hosts, in their order; a batch has at least one host, and all hosts of a span."""
        size = max(1, self.size.of(len(hosts)))
        units = gather((host.head, host.name) for host in hosts)
        batch: list[str] = []
        for unit in units.values():
            if batch and len(batch) + len(unit) > size:
                yield batch
                batch = []
            batch = [*batch, *unit]
        if batch:
            yield batch

    def refusal(self, failed: Sequence[str], hosts: int) -> str | None:
        """Return why no further batch begins after these hosts failed, of the number in all batches; None while few have."""
        allowed = self.max_fail.of(hosts)
        if len(failed) <= allowed:
            return None
        return f"not begun: of {hosts} hosts {len(failed)} failed ({', '.join(failed)}), and `--max-fail {self.max_fail}` allows {allowed}"


@dataclass(frozen=True)
class CommandRequest:
    """A command with its options."""

    command: str
    inventory: Path
    limit: str | None
    overrides: Mapping[str, Any]
    logs: Path
    become_password: str | None = field(default=None, repr=False)
    refresh: bool = False
    """Whether to lock again what is locked already."""
    bundle: Path | None = None
    """The file that replaces the network."""
    trust: str | None = None
    """The key that must have signed the bundle: a file, or the key itself."""
    older_bundle: bool = False
    """Whether the bundle may be older than the last one of a host."""
    batching: Batching | None = None
    """How hosts are changed batch by batch; all at once when None."""
    verbose: bool = False
    """Whether every detail is printed."""
    as_json: bool = False
    """Whether the command prints one JSON document."""
    arguments: tuple[str, ...] = ()
    invocation: Invocation = field(default_factory=Invocation)
    """What a suggested command has to repeat."""
