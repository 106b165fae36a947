"""Command line of a run, as far as suggested commands repeat it."""

import re
import shlex
from collections.abc import Iterator

from pydantic import Field

from provision.core.models.base import Record

SET = "--set"
ROOT = "-K"
"""All commands on hosts know it: without it, one would look for an installation of the login instead of root's."""
POLICY = ("--model", "--vllm", "--driver", "--flash-attn", "--flash-attn-wheels", "--attention")
"""Options that say what is to be served."""
_LISTENING = ("--host", "--port")
_PLANNING = (*POLICY, SET, *_LISTENING, "--reboot")
_BUNDLE = ("--bundle", "--trust", "--older-bundle")
_STAGING = (*_PLANNING, "--refresh", *_BUNDLE)
TAKES: dict[str, tuple[str, ...]] = {
    "provision": (*_STAGING, "--batch", "--max-fail"),
    "probe": (),
    "drift": (),
    "plan": _PLANNING,
    "stage": _STAGING,
    "install": _STAGING,
    "drivers": (*POLICY, SET, "--reboot"),
    "serve": (*POLICY, SET, *_LISTENING, *_BUNDLE),
    "verify": ("--prefix",),
    "verify compare": ("--prefix",),
    "verify soak": ("--prefix",),
    "status": (),
    "stop": (),
    "rollback": (),
    "uninstall": (),
    "doctor": (),
}
"""Commands that act on hosts of an inventory, with the options that each knows besides inventory, limit and `ROOT`."""
ELSEWHERE = "--prefix"
"""Options that name another installation: a command without them would act on the default one."""

_MENTION = re.compile(
    r"\./firstlight (doctor(?= --limit\b)|"
    + "|".join(sorted(TAKES.keys() - {"doctor"}, key=len, reverse=True))
    + r")(?![\w-])(?! -i\b)( --limit [^\s:;,)]+)?"
)
_WHOLE = re.compile(r"\./firstlight (gateway(?: status|(?: ready| drain) [^\s:;,)]+)?|monitoring)(?![\w-])(?! -i\b)")
"""Commands on a whole inventory, which take no limit."""


class Invocation(Record):
    """Inventory, limit and options of a command."""

    inventory: str | None = None
    """As typed; None for this machine."""
    limit: str | None = None
    options: dict[str, str | None] = Field(default_factory=dict)
    """By name, with its value where it has one."""
    settings: tuple[str, ...] = ()
    """The values of `--set`."""

    def suggest(self, command: str, *, hosts: str | None = None) -> str:
        """Return a command for the same hosts with the same options; `hosts` is a narrower limit."""
        named = hosts or ("NAME" if command == "doctor" else None)
        limit, options = self._limit(named), self._options(command)
        return shlex.join(["./firstlight", *command.split(), *self._inventory(), *limit, *options])

    def on_inventory(self, *words: str) -> str:
        """Return a command that takes an inventory, and no limit."""
        return shlex.join(["./firstlight", *words, *self._inventory()])

    def on_record(self, *words: str) -> str:
        """Return a command that takes its inventory from a record, such as that of a rollout."""
        return self.model_copy(update={"inventory": None}).on_inventory(*words)

    def knows(self, command: str) -> bool:
        """Return whether a command can act on the same installation."""
        return ELSEWHERE not in self.options or ELSEWHERE in TAKES[command]

    def complete(self, text: str) -> str:
        """Complete every command in a text for the hosts of this command line.

        Checks and scripts on hosts name commands without knowing the inventory. The limit is that of the run.
        """

        def completed(found: re.Match[str]) -> str:
            command, named = found[1], found[2] or ""
            words = (*self._inventory(), *(() if named else self._limit(None)), *self._options(command))
            return " ".join((f"./firstlight {command}", *map(shlex.quote, words))) + named

        whole = _WHOLE.sub(lambda found: self.on_inventory(*found[1].split()), text)
        return _MENTION.sub(completed, whole)

    def _inventory(self) -> tuple[str, ...]:
        root = (ROOT,) if ROOT in self.options else ()
        return root if self.inventory is None else ("-i", self.inventory, *root)

    def _limit(self, hosts: str | None) -> tuple[str, ...]:
        limit = hosts or self.limit
        return ("--limit", limit) if limit else ()

    def _options(self, command: str) -> Iterator[str]:
        for name, value in self.options.items():
            if name in TAKES[command]:
                yield from (name,) if value is None else (name, value)
        if SET in TAKES[command]:
            for setting in self.settings:
                yield from (SET, setting)
