"""The command `doctor FILE...`."""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verify.doctor import render
from verify.doctor.engine import doctor
from verify.doctor.text_decoding import open_log

READ, FOUND, USAGE = 0, 1, 2
TOP = 3
HUGE_BYTES = 256 << 20
"""A log of this size takes half a minute."""


def main(arguments: Sequence[str], *, program: str = "doctor") -> int:
    """Diagnose the files that the arguments name, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Finds the cause of a failure in logs of any program.",
        epilog="exit codes: 0 read, 1 with --exit-code: a file has a finding, 2 usage",
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="any text; - reads standard input")
    parser.add_argument("--facts", metavar="FILE", help="facts of the host, as `probe --json` prints them")
    parser.add_argument("--top", metavar="N", type=int, default=TOP, help=f"findings a file (default: {TOP})")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where a file has a finding")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(list(arguments))
    return run(options.files, facts=options.facts, top=options.top, as_json=options.json, exit_code=options.exit_code)


def run(files: Sequence[str], *, facts: str | None, top: int, as_json: bool, exit_code: bool = False) -> int:
    """Diagnose files, print the findings, and return the exit code.

    Args:
        files: Paths; `-` is standard input.
        facts: Path of a file with the host's facts.
        top: Maximum number of findings of each file.
        exit_code: Whether a finding is an exit code of its own.
    """
    if top < 1:
        return _refuse(f"`--top {top}` shows no finding", "give 1 or more: --top 1", as_json=as_json)
    known: Mapping[str, Any] = {}
    if facts is not None:
        try:
            known = read_facts(facts)
        except (OSError, ValueError, RecursionError) as error:
            return _refuse(
                f"cannot read facts from `{facts}`: {_reason(error)}",
                "./firstlight probe --json > FILE",
                as_json=as_json,
            )
    documents: list[dict[str, Any]] = []
    code = READ
    for number, name in enumerate(files):
        _note_size(name)
        try:
            with open_log(name) as stream:
                diagnosis = doctor().diagnose({name: stream}, known)
        except OSError as error:
            problem = f"cannot read `{name}`: {_reason(error)}"
            return _refuse(problem, "name text files, or - for standard input", as_json=as_json)
        if diagnosis.findings and exit_code:
            code = FOUND
        if as_json:
            documents.append(render.to_json(name, diagnosis, top=top))
        else:
            sys.stdout.write(("\n" if number else "") + render.render_text(name, diagnosis, top=top))
    if as_json:
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
    return code


def read_facts(path: str) -> dict[str, Any]:
    """Return one host's facts; they may be in a list of one. Raises OSError and ValueError."""
    content = json.loads(Path(path).read_text(encoding="utf-8"))
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if not isinstance(content, dict):
        raise ValueError("not the JSON object of one host")  # noqa: TRY004 - wrong input, reported like other ones
    return content


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _note_size(name: str) -> None:
    """Announce that a huge log takes a while, or it looks as if the command hangs."""
    size = Path(name).stat().st_size if name != "-" and Path(name).is_file() else 0
    if size > HUGE_BYTES:
        sys.stderr.write(
            f"note: `{name}` has {size / (1 << 20):.0f} MiB and takes a while; "
            f"failures are mostly at the end: tail -c 100M {shlex.quote(name)} | ./firstlight doctor -\n"
        )


def _refuse(problem: str, hint: str, *, as_json: bool) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    if as_json:
        error = {"text": problem, "hint": hint, "cause": None}
        sys.stdout.write(json.dumps({"error": error, "exit_code": USAGE}, indent=2) + "\n")
    return USAGE
