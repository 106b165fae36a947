"""One answer of OpenSSH for all hosts that its configuration does not tell apart: `ssh -G` costs 10 ms, 5,000 times."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from provision.fleet.inventory.openssh import Resolved, SshTarget, configuration_file, read_ssh_config
from provision.fleet.inventory.ssh_files import ssh_files

KEPT = 256
"""Answers; where each host has a block of its own, none of them serves another."""
_LINE = re.compile(r"^\s*(host|hostname|match|include)(?:\s*=\s*|\s+)(.*)$", re.IGNORECASE | re.MULTILINE)
_FOR_ALL = {"all", "final", "canonical"}
"""Criteria of a Match block that hold for every host alike."""
_PLAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
"""Targets that OpenSSH takes as they are."""

Key = tuple[tuple[str, ...], str | None, tuple[bool, ...]]


class Blocks(NamedTuple):
    """The words that tell hosts apart: names, and patterns with wildcards."""

    names: frozenset[str]
    wildcards: tuple[re.Pattern[str], ...]


class Answer(NamedTuple):
    """What OpenSSH said of one host."""

    target: str
    options: Resolved

    def of(self, target: str) -> Resolved | None:
        """The same said of another one; null where either's name is part of what was said."""
        if target == self.target:
            return self.options
        own = {"host": [self.target], "hostname": [self.target]}
        others = (value for key, values in self.options.items() if values != own.get(key) for value in values)
        if any(self.target in value or target in value for value in others):
            return None
        return self.options | {key: [target] for key, values in own.items() if self.options.get(key) == values}


class SharedAnswers:
    """Asks OpenSSH, and once only for hosts that it would answer alike. May be called from several threads."""

    def __init__(self, ask: Callable[[SshTarget], Resolved] = read_ssh_config) -> None:
        self._ask = ask
        self._kept: dict[Key, Answer] = {}
        self._blocks: dict[tuple[str, ...], Blocks | None] = {}

    def __call__(self, target_host: SshTarget) -> Resolved:
        """All options of a host. Raises InventoryError as OpenSSH's own answer does."""
        key = self._key(target_host)
        kept = self._kept.get(key) if key else None
        if kept is not None and (options := kept.of(target_host.target)) is not None:
            return options
        options = self._ask(target_host)
        if key and kept is None and len(self._kept) < KEPT:
            self._kept[key] = Answer(target_host.target, options)
        return options

    def _key(self, target_host: SshTarget) -> Key | None:
        """What two hosts have in common for which the same lines of the configuration hold; null where nobody can tell."""
        named = configuration_file(target_host.arguments)
        if named not in self._blocks:
            self._blocks[named] = read_blocks(named)
        blocks = self._blocks[named]
        names_an_address = any("hostname" in argument.lower() for argument in target_host.arguments)
        if blocks is None or names_an_address or not _PLAIN.fullmatch(target_host.target):
            return None
        own = target_host.target if target_host.target in blocks.names else None
        return target_host.arguments, own, tuple(bool(one.fullmatch(target_host.target)) for one in blocks.wildcards)


def read_blocks(named: Sequence[str]) -> Blocks | None:
    """The patterns that tell hosts apart; null where something else may: a `Match` by criteria, an `Include` with tokens.

    `named` is what the arguments say of the configuration file, empty where they leave that to OpenSSH.
    """
    words: set[str] = set()
    for file in ssh_files([named[-1].removeprefix("-F")] if named else [], alone=bool(named)):
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        for keyword, rest in _LINE.findall(text):
            found = re.sub("[\"']", " ", rest).split()
            by_criteria = keyword.lower() == "match" and not {word.lower() for word in found} <= _FOR_ALL
            with_tokens = keyword.lower() == "include" and ("%" in rest or "$" in rest)
            if by_criteria or with_tokens or "\\" in rest:
                return None
            if keyword.lower() == "host":
                words.update(word.removeprefix("!") for word in found)
            elif keyword.lower() == "hostname":
                # Whether a target is its own address or the one of this line, an answer does not say.
                words.update(word.lower() for word in found)
    names = frozenset(word for word in words if not set("*?") & set(word))
    # Brackets stand for themselves in a pattern of OpenSSH's.
    wildcards = [re.compile(fnmatch.translate(word.replace("[", "[[]"))) for word in sorted(words - names)]
    return Blocks(names, tuple(wildcards))
