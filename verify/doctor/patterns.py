"""What a regular expression cannot match without: plain text that must stand in the line, found far faster.

A pattern gives groups of texts; every matching line contains one of each group. The texts are lower case, and hold no
character that a log's format may escape.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import Any

try:
    _parser: Any = import_module("re._parser")
except ImportError:  # Python 3.10
    _parser = import_module("sre_parse")

MIN_LENGTH, MIN_WORDLESS = 2, 3
"""Shorter text stands in every log: with a word of two letters in it, and without one."""
MAX_ALTERNATIVES = 48
MAX_GROUPS = 4
MAX_RUN = 12
"""Spellings of one piece of text: `sm_1[02]0` has two."""
EVERYDAY = frozenset(
    (
        *("bug", "cache", "core", "cuda", "device", "engine", "error", "failed", "gpu", "host", "http", "info"),
        *("lock", "memory", "model", "nccl", "node", "not", "p2p", "python", "request", "running", "torch"),
        *("version", "vllm", "worker"),
        *("cc", "cu", "in", "install", "is", "no", "not work", "on", "py", "rank", "request", "run", "sm", "stall"),
        *("support", "t work", "to", "work"),
    )
)
"""Words of healthy logs: they lead to a pattern only where nothing else does."""
_PIECE = re.compile(r"[a-z0-9 _.,:;=\[\]()<>/'+*#%@!?&|$~`-]+")
_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_OPEN_END = re.compile(r"\{(\d+),\}")
_LEAST = {"*": 0, "+": 1}
_LIMITS = {r"\w": 40, r"\d": 20, r"\s": 40, " ": 40, ")": 12}
"""How often what stands before a repeat may be repeated."""
OTHER_LIMIT = 200
_WORD = re.compile("[a-z_]{2,}")


def required(pattern: str) -> tuple[tuple[str, ...], ...]:
    """What each matching line contains: of each group at least one text. The most telling group first.

    Empty when there is nothing worth looking for. Raises re.error.
    """
    groups = set(_groups(_parser.parse(pattern)))
    return tuple(tuple(sorted(group)) for group in sorted(groups, key=_order)[:MAX_GROUPS])


def bounded(pattern: str) -> str:
    """The pattern with an end to each repeat, so that its time on a hostile line has one too. Raises re.error."""
    re.compile(pattern)
    written: list[str] = []
    atom = ""
    for part in _TOKEN.findall(pattern):
        least = _LEAST.get(part) if atom not in ("", "(", "|") else None
        written.append(part if least is None else f"{{{least},{_LIMITS.get(atom, OTHER_LIMIT)}}}")
        atom = part
    return _OPEN_END.sub(rf"{{\1,{OTHER_LIMIT}}}", "".join(written))


def minds_digits(pattern: str) -> bool:
    """Whether a pattern asks for certain digits, so that it may match one of two lines that differ in digits alone."""
    return re.search(r"\d", re.sub(r"\\.|\{[\d,]+\}", "", pattern)) is not None


def _groups(parsed: Iterable[Any]) -> list[frozenset[str]]:
    """Groups of a sequence, all of which a match contains."""
    groups: list[frozenset[str]] = []
    run = [""]
    for operation, value in parsed:
        name = str(operation)
        texts, whole = _beginnings(name, value)
        if texts and len(run) * len(texts) <= MAX_RUN:
            run = [text + more for text in run for more in texts]
            if whole:
                continue
        groups += _pieces(run)
        run = [""]
        groups += _nested(name, value)
    return groups + _pieces(run)


def _pieces(run: list[str]) -> list[frozenset[str]]:
    """The best piece of each spelling, as one group; none when a spelling has no piece that is worth it."""
    found = [[piece for piece in _PIECE.findall(text.lower()) if _is_worth(piece)] for text in run]
    return [frozenset(max(pieces, key=len) for pieces in found)] if all(found) else []


def _beginnings(name: str, value: Any) -> tuple[list[str], bool]:
    """The few plain texts that a part of a pattern can begin with, and whether these are all of the part."""
    if name == "LITERAL":
        return [chr(value) if value < 128 else "\n"], True  # the case of other letters is not folded alike
    if name == "IN" and all(str(kind) == "LITERAL" for kind, _ in value):
        return [chr(item) if item < 128 else "\n" for _, item in value], True
    if name == "SUBPATTERN":
        return _sequence(value[3])
    if name in ("MAX_REPEAT", "MIN_REPEAT") and tuple(value[:2]) == (0, 1):
        texts, whole = _sequence(value[2])
        return (["", *texts], True) if whole else ([], False)
    if name == "BRANCH":
        branches = [_sequence(branch) for branch in value[1]]
        texts = [text for texts, _ in branches for text in texts]
        known = all(texts and all(texts) for texts, _ in branches)
        return (texts, all(whole for _, whole in branches)) if known else ([], False)
    return [], False


def _sequence(parsed: Iterable[Any]) -> tuple[list[str], bool]:
    run = [""]
    for operation, value in parsed:
        texts, whole = _beginnings(str(operation), value)
        if not texts or len(run) * len(texts) > MAX_RUN:
            return run, False
        run = [text + more for text in run for more in texts]
        if not whole:
            return run, False
    return run, True


def _nested(name: str, value: Any) -> list[frozenset[str]]:
    if name in ("SUBPATTERN", "MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        optional = name != "SUBPATTERN" and value[0] == 0
        return [] if optional else _groups(value[-1])
    if name == "ATOMIC_GROUP":
        return _groups(value)
    if name == "ASSERT":
        return _groups(value[1])
    if name == "BRANCH":
        # Whichever branch matches holds its own best text, its own second best, and so on.
        branches = [sorted(_groups(branch), key=_order) for branch in value[1]]
        if not all(branches):
            return []
        ranks = range(max(map(len, branches)))
        merged = [frozenset[str]().union(*(b[rank] if rank < len(b) else b[0] for b in branches)) for rank in ranks]
        return [group for group in merged if len(group) <= MAX_ALTERNATIVES]
    return []


def _is_worth(piece: str) -> bool:
    return len(piece) >= (MIN_LENGTH if _WORD.search(piece) else MIN_WORDLESS)


def _order(group: frozenset[str]) -> tuple[int, int, list[str]]:
    """The most telling first: by its least telling text."""
    return -min(map(_worth, group)), len(group), sorted(group)


def _worth(text: str) -> int:
    bare = text.strip(" -_/")
    if bare in EVERYDAY or len(bare) < 2:
        return len(bare) - 20
    if len(bare) < 3:
        return len(bare) - 10
    return len(text) + max(map(len, _WORD.findall(text)), default=0)
