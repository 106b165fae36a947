"""A failed task's result, in the few words that a person needs. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from provision.core.tables import own_table

TABLE = Path(__file__).with_name("known_failures.toml")

_CAUSE = re.compile(r"^\s*(error:|fatal:|E:|\u00d7|Caused by|╰─▶|\w*(Error|Exception):)", re.IGNORECASE)
"""Lines that programs mark as the cause themselves (apt, uv, Python)."""
_LIKELY = re.compile(r"\b(cannot|failed|refused|denied)\b", re.IGNORECASE)
_OWN_ERROR = re.compile(r"^(?:firstlight-error|preflight refuses): (.+?)\s*$", re.MULTILINE)
_OWN_HINT = re.compile(r"^firstlight-hint: (.+?)\s*$", re.MULTILINE)
_NOISE = ("Shared connection to ", "non-zero return code")
"""What ssh and Ansible add to every failure."""
_HINT = "what Ansible said stands in install/ansible.log of the run's folder (logs/latest)"
LINES_AT_MOST = 4
EVIDENCE_AT_MOST = 20


@dataclass(frozen=True)
class Words:
    """What a person reads of a host: a sentence, what helps, and the lines that it rests on."""

    text: str
    hint: str | None
    evidence: tuple[str, ...]


@cache
def _table() -> tuple[tuple[re.Pattern[str], str], ...]:
    rows = own_table(TABLE)["failure"]
    return tuple((re.compile(row["pattern"], re.IGNORECASE), row["hint"]) for row in rows)


def _outputs(result: Mapping[str, Any]) -> Iterator[str]:
    """What the task said, the most telling first."""
    for key in ("stderr", "module_stderr", "stdout", "module_stdout", "msg"):
        value = result.get(key)
        if isinstance(value, str) and value.strip():
            yield value.replace("\r\n", "\n").strip()


def _causes(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if _CAUSE.match(line)][-LINES_AT_MOST:]


def _decisive(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    likely = [line for line in lines if _LIKELY.search(line)]
    return _causes(text) or likely[-LINES_AT_MOST:] or lines[-LINES_AT_MOST:]


def _detail(outputs: list[str]) -> str:
    """Our scripts' own words, with the cause that a program below them gave; else the lines that look decisive.

    A generic message ("non-zero return code") says less than any output, hence the order of the outputs.
    """
    if not outputs:
        return "no reason was given"
    whole = "\n".join(outputs)
    if own := _OWN_ERROR.findall(whole):
        return "; ".join(dict.fromkeys([*own, *_causes(whole)]))
    return "; ".join(_decisive(outputs[0]))


def describe(task: str, host: str, result: Mapping[str, Any]) -> Words:
    """The failure of a task on a host, and what helps."""
    outputs = list(_outputs(result))
    whole = "\n".join(outputs)
    code = f" (exit code {result['rc']})" if not _OWN_ERROR.search(whole) and isinstance(result.get("rc"), int) else ""
    hint = _OWN_HINT.search(whole)
    lines = [line for line in whole.splitlines() if line.strip() and not line.startswith(_NOISE)]
    return Words(
        text=f"task `{task}` failed on host {host}{code}: {_detail(outputs)}",
        hint=hint.group(1) if hint else _known(whole) or _HINT,
        evidence=tuple(lines[-EVIDENCE_AT_MOST:]),
    )


def _known(text: str) -> str | None:
    return next((hint for pattern, hint in _table() if pattern.search(text)), None)


def describe_unreachable(task: str, host: str, result: Mapping[str, Any]) -> Words:
    """Ansible's word for a host that it could not reach, or that stopped answering."""
    message = str(result.get("msg", "no reason was given")).strip()
    return Words(
        text=f"host {host} could not be reached for task `{task}`: {' '.join(_decisive(message))}",
        hint=_known(message) or "run ./firstlight provision again: it goes on where it stopped",
        evidence=tuple(message.splitlines()[-EVIDENCE_AT_MOST:]),
    )
