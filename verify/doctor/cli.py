"""The command `doctor FILE...`."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from verify.doctor import render
from verify.doctor.engine import doctor
from verify.doctor.text_decoding import open_log

READ, FOUND, USAGE = 0, 1, 2
TOP = 3


def main(arguments: Sequence[str], *, program: str = "doctor") -> int:
    """Diagnose the files that the arguments name, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Finds the cause of a failure in logs of any program.",
        epilog="exit codes: 0 read, 1 with --exit-code: a file has a finding, 2 usage",
        allow_abbrev=False,
    )
    parser.add_argument("files", metavar="FILE", nargs="+", help="any text; - reads standard input")
    parser.add_argument("--top", metavar="N", type=int, default=TOP, help=f"findings a file (default: {TOP})")
    parser.add_argument("--exit-code", action="store_true", help="exit with 1 where a file has a finding")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args(list(arguments))
    return run(options.files, top=options.top, as_json=options.json, exit_code=options.exit_code)


def run(files: Sequence[str], *, top: int, as_json: bool, exit_code: bool = False) -> int:
    """Diagnose files, print the findings, and return the exit code.

    Args:
        files: Paths; `-` is standard input.
        top: Maximum number of findings of each file.
        exit_code: Whether a finding is an exit code of its own.
    """
    if top < 1:
        return _refuse(f"`--top {top}` shows no finding", "give 1 or more: --top 1", as_json=as_json)
    documents: list[dict[str, Any]] = []
    code = READ
    for number, name in enumerate(files):
        try:
            with open_log(name) as stream:
                diagnosis = doctor().diagnose({name: stream})
        except OSError as error:
            problem = f"cannot read `{name}`: {error.strerror or error}"
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


def _refuse(problem: str, hint: str, *, as_json: bool) -> int:
    sys.stderr.write(f"error: {problem}\n\nhint: {hint}\n")
    if as_json:
        error = {"text": problem, "hint": hint, "cause": None}
        sys.stdout.write(json.dumps({"error": error, "exit_code": USAGE}, indent=2) + "\n")
    return USAGE
