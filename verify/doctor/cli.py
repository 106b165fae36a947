"""`doctor FILE...`: name the causes of failures from what was written about them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.doctor import render
from verify.doctor.catalog import CatalogError
from verify.doctor.engine import Diagnosis, doctor
from verify.doctor.reading import opened

FOUND, UNKNOWN, USAGE = 0, 8, 2
TOP = 3
HUGE_BYTES = 256 << 20
"""A log of this size is read for some ten seconds."""
OTHER_PYTHON = "another Python from 3.10 on, as distributions build them: python3 verify.pyz doctor FILE"


def main(arguments: Sequence[str], *, program: str = "doctor") -> int:
    """Diagnose the files that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Names the cause of a failure from logs, whoever wrote them.",
        epilog="exit codes: 0 every file has a finding, 8 at least one has none, 2 usage",
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="any text; - reads standard input")
    parser.add_argument("--facts", metavar="FILE", help="facts of the host, as `probe --json` prints them")
    parser.add_argument("--top", metavar="N", type=int, default=TOP, help=f"findings a file (default: {TOP})")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(list(arguments))
    return run(options.files, facts=options.facts, top=options.top, as_json=options.json)


def run(files: Sequence[str], *, facts: str | None, top: int, as_json: bool) -> int:
    """The command itself, once its options are known; returns the exit code."""
    if top < 1:
        return _refuse(f"--top {top} leaves nothing to say", "ask for at least one: --top 1", as_json=as_json)
    known: Mapping[str, Any] = {}
    if facts is not None:
        try:
            known = read_facts(facts)
        except (OSError, ValueError, RecursionError) as error:
            return _refuse(
                f"no facts can be read from {facts}: {_reason(error)}",
                "./firstlight probe --json > FILE",
                as_json=as_json,
            )
    documents: list[dict[str, Any]] = []
    every = True
    for name in files:
        try:
            _note_size(name)
            diagnosis = _diagnosed(name, known)
        except ModuleNotFoundError as error:
            return _refuse(
                f"this Python has no module `{error.name}`, which the catalogue is packed with",
                OTHER_PYTHON,
                as_json=as_json,
            )
        except CatalogError as error:
            return _refuse(
                f"the catalogue is damaged: {error}", "take the files of a release as they are", as_json=as_json
            )
        except OSError as error:
            return _refuse(
                f"{name} cannot be read: {_reason(error)}",
                "name files with text, or - for standard input",
                as_json=as_json,
            )
        every = every and bool(diagnosis.findings)
        if as_json:
            documents.append(render.document(name, diagnosis, top=top))
        else:
            sys.stdout.write(("\n" if documents else "") + render.text(name, diagnosis, top=top))
            documents.append({})
    if as_json:
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
    return FOUND if every else UNKNOWN


def _diagnosed(name: str, known: Mapping[str, Any]) -> Diagnosis:
    """What the doctor says of one file. Raises OSError, and what `catalogue` raises."""
    stream = opened(name)
    try:
        return doctor().diagnose({name: stream}, known)
    finally:
        if name != "-":
            stream.close()


def read_facts(path: str) -> dict[str, Any]:
    """A host's facts, also where they stand in a list of one. Raises OSError and ValueError."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict):
        raise ValueError("not the JSON object of one host")  # noqa: TRY004 - wrong input, reported like other ones
    return content


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _note_size(name: str) -> None:
    """Of a log that takes long to read, say so: a person who waits without a word takes it for a hang."""
    held = Path(name).stat().st_size if name != "-" and Path(name).is_file() else 0
    if held > HUGE_BYTES:
        sys.stderr.write(
            f"note: {name} holds {held / (1 << 20):.0f} MiB, which takes a while; "
            f"the failure mostly stands at its end: tail -c 100M {shlex.quote(name)} | ./firstlight doctor -\n"
        )


def _refuse(problem: str, hint: str, *, as_json: bool) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    if as_json:
        told = {"text": problem, "hint": hint, "cause": None}
        sys.stdout.write(json.dumps({"error": told, "exit_code": USAGE}, indent=2) + "\n")
    return USAGE
