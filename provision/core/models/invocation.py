"""What a person typed, as far as a suggested command has to repeat it to act on the same hosts in the same way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from pydantic import Field

from provision.core.models.base import Record

_PLAN = ("--model", "--vllm", "--driver", "--flash-attn", "--flash-attn-wheels", "--attention")
_REBOOT = ("--reboot", "--no-reboot")
TAKES: dict[str, tuple[str, ...]] = {
    "provision": (*_PLAN, *_REBOOT, "-K", "--refresh", "--bundle", "--trust"),
    "probe": (),
    "plan": _PLAN,
    "stage": ("--model", "--vllm", "--refresh"),
    "install": ("--model", "--vllm", *_REBOOT, "-K"),
    "drivers": ("--vllm", "--driver", *_REBOOT, "-K"),
    "serve": ("--attention", "--model", "-K"),
    "verify": ("--prefix", "-K"),
    "verify compare": ("--prefix", "-K"),
    "verify soak": ("--prefix", "-K"),
    "status": (),
    "stop": ("-K",),
    "rollback": ("-K",),
    "uninstall": ("-K",),
    "doctor": ("-K",),
}
"""Commands that act on the hosts of an inventory, and which options, besides inventory and limit, each of them knows."""
ELSEWHERE = "--prefix"
"""It names another installation: a command that does not know it would act on the default one."""

_MENTION = re.compile(
    r"\./firstlight (doctor(?= --host NAME)|"
    + "|".join(sorted(TAKES.keys() - {"doctor"}, key=len, reverse=True))
    + r")(?![\w-])(?! -i\b)( --host NAME| --limit [^\s:;,)]+)?"
)


class Invocation(Record):
    """Inventory, limit and options of a command."""

    inventory: str | None = None
    """As typed; null where none was named, which is this machine."""
    limit: str | None = None
    options: dict[str, str | None] = Field(default_factory=dict)
    """By name, with the value of those that have one."""

    def suggest(self, command: str, *, hosts: str | None = None) -> str:
        """A command for the same hosts with the same options; `hosts` is a narrower limit, of `doctor` the host."""
        named = ("--host", hosts or "NAME") if command == "doctor" else self._limit(hosts)
        return shlex.join(["./firstlight", *command.split(), *self._inventory(), *named, *self._options(command)])

    def knows(self, command: str) -> bool:
        """Whether a command can act on the installation that was meant."""
        return ELSEWHERE not in self.options or ELSEWHERE in TAKES[command]

    def complete(self, text: str) -> str:
        """A text in which every command that it mentions is for the hosts of this one.

        Checks and scripts on hosts name commands without knowing which inventory they were started with. The limit is the
        run's own and no single host's, so that equal hints of many hosts stay equal.
        """

        def completed(found: re.Match[str]) -> str:
            command, named = found[1], found[2] or ""
            words = (*self._inventory(), *(() if named else self._limit(None)), *self._options(command))
            return " ".join((f"./firstlight {command}", *map(shlex.quote, words))) + named

        return _MENTION.sub(completed, text)

    def _inventory(self) -> tuple[str, ...]:
        return () if self.inventory is None else ("-i", self.inventory)

    def _limit(self, hosts: str | None) -> tuple[str, ...]:
        limit = hosts or self.limit
        return ("--limit", limit) if limit else ()

    def _options(self, command: str) -> Iterator[str]:
        for name, value in self.options.items():
            if name in TAKES[command]:
                yield from (name,) if value is None else (name, value)
