"""The files of the user's ssh configuration, and shared `ssh -G` answers for hosts that it does not distinguish: one call costs 10 ms."""

import fnmatch
import glob
import os
import pwd
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from provision.fleet.inventory.ssh_config import Resolved, SshTarget, configuration_file, read_ssh_config

_INCLUDE = re.compile(r"^\s*include(?:\s*=\s*|\s+)(.+)$", re.IGNORECASE | re.MULTILINE)


def ssh_files(named: Iterable[str], *, alone: bool = False) -> list[Path]:
    """The user's configuration, the system's, those that are named (`alone`: only these), and all that they include."""
    try:
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:  # OpenSSH runs for no account that the system does not know; this machine needs none of it
        home = Path.home()
    pending = [Path(name.replace("~", str(home), 1)) for name in named]
    pending += [] if alone else [home / ".ssh/config", Path("/etc/ssh/ssh_config")]
    found: list[Path] = []
    while pending:
        file = pending.pop()
        if file in found:
            continue
        found.append(file)
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        base = Path("/etc/ssh") if file.is_relative_to("/etc/ssh") else home / ".ssh"
        for line in _INCLUDE.findall(text):
            for word in line.replace('"', " ").split():
                pattern = word.replace("~", str(home), 1) if word.startswith("~") else str(base / word)
                pending += [Path(match) for match in sorted(glob.glob(pattern))]  # noqa: PTH207  # absolute patterns
    return found


KEPT = 256
"""Maximum number of kept answers; hosts with a block of their own share none."""
_LINE = re.compile(r"^\s*(host|hostname|match|include)(?:\s*=\s*|\s+)(.*)$", re.IGNORECASE | re.MULTILINE)
_FOR_ALL = {"all", "final", "canonical"}
"""Criteria of a Match block that hold for every host."""
_PLAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
"""Targets that OpenSSH does not rewrite."""

Key = tuple[tuple[str, ...], str | None, tuple[bool, ...]]


class Blocks(NamedTuple):
    """Names and wildcard patterns that distinguish hosts."""

    names: frozenset[str]
    wildcards: tuple[re.Pattern[str], ...]


class Answer(NamedTuple):
    """OpenSSH's answer for one host."""

    target: str
    options: Resolved

    def of(self, target: str) -> Resolved | None:
        """Return the answer for another host; None where a host name is part of the answer."""
        if target == self.target:
            return self.options
        own = {"host": [self.target], "hostname": [self.target]}
        others = (value for key, values in self.options.items() if values != own.get(key) for value in values)
        if any(self.target in value or target in value for value in others):
            return None
        return self.options | {key: [target] for key, values in own.items() if self.options.get(key) == values}


class SharedAnswers:
    """Calls `ssh -G` once for hosts with equal answers. Thread-safe."""

    def __init__(self, ask: Callable[[SshTarget], Resolved] = read_ssh_config) -> None:
        self._ask = ask
        self._kept: dict[Key, Answer] = {}
        self._blocks: dict[tuple[str, ...], Blocks | None] = {}

    def __call__(self, target_host: SshTarget) -> Resolved:
        """Return all options of a host.

        Raises:
            InventoryError: OpenSSH refuses the host.
        """
        key = self._key(target_host)
        kept = self._kept.get(key) if key else None
        if kept is not None and (options := kept.of(target_host.target)) is not None:
            return options
        options = self._ask(target_host)
        if key and kept is None and len(self._kept) < KEPT:
            self._kept[key] = Answer(target_host.target, options)
        return options

    def _key(self, target_host: SshTarget) -> Key | None:
        """Return the key of hosts for which the same configuration lines hold; None when unknown."""
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
    """Read the patterns that distinguish hosts; None where other criteria may (`Match`, `Include` with tokens).

    `named` is the `-F` argument, empty for OpenSSH's defaults.
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
                # an answer does not show whether the address came from this line
                words.update(word.lower() for word in found)
    names = frozenset(word for word in words if not set("*?") & set(word))
    # brackets are literal in OpenSSH patterns
    wildcards = [re.compile(fnmatch.translate(word.replace("[", "[[]"))) for word in sorted(words - names)]
    return Blocks(names, tuple(wildcards))
