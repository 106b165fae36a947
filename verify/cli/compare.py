"""Command `verify compare --backend A --backend B`: measure the service with two choices."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from verify.cli.arguments import Parser
from verify.files import read_json
from verify.records import EXIT_CODES, INTERRUPTED_EXIT, CheckContext
from verify.runner.child_processes import run_one
from verify.serving.comparison import Choice, at_once, figures, measure, promises, require_difference, side_by_side
from verify.serving.drain import drain_service
from verify.serving.service import Service, find
from verify.serving.service_control import ControlError
from verify.serving.variant import VariantError, running
from verify.tables import table

MODES = ("eager", "compiled")
HEAD = f"{'measure':<28}{'before':>12}{'after':>12}  {'unit':<9}{'change':>8}  {'target':<15}verdict"
NOT_MEASURED = "-"
ATTENTION_S = 240.0
"""Deadline of the measurement of attention."""


def main(arguments: list[str]) -> int:
    """Return 0: all targets are met; 1: one is missed; 2: the service did not come back; 3: a choice cannot be measured."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if bool(options.backend) == bool(options.mode):
        parser.error("pass either --backend or --mode twice")
    choices = [Choice("backend", name) for name in options.backend] or [Choice("mode", name) for name in options.mode]
    if len(choices) != 2 or choices[0] == choices[1]:
        parser.error(
            f"compare needs two different choices, {len(choices)} given: {', '.join(c.value for c in choices)}"
        )
    try:
        targets = dict(_target(text) for text in options.target)
    except ValueError as error:
        parser.error(str(error))
    service = find(options.prefix.resolve() if options.prefix else Path(sys.prefix).resolve().parent.parent)
    if service is None or service.main_pid is None:
        sys.stderr.write("error: no service runs from this environment\n\nhint: start it: ./firstlight serve\n")
        return EXIT_CODES["error"]
    try:
        document = _compare(service, choices, targets)
    except KeyboardInterrupt:
        parser.exit(INTERRUPTED_EXIT, "interrupted\n")
    except (ControlError, VariantError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_CODES["error"]
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if options.json else "\n".join([*document["table"], ""]))
    return int(document["exit_code"])


def _compare(service: Service, choices: list[Choice], targets: dict[str, float]) -> dict[str, Any]:
    """Measure the choices; raises ControlError, VariantError and OSError after the service is back."""
    command = running(service)
    commands = {choice.value: choice.apply(command) for choice in choices}  # report the choice's own problem first
    problem: VariantError | None = None
    attention: dict[str, Any] = {}
    with drain_service(service) as drain:
        try:
            measured = [measure(service, asked, label=label) for label, asked in commands.items()]
            attention = _attention_gain()
        except VariantError as error:
            problem = error
    assert drain.outcome is not None
    if problem is not None:
        raise VariantError(f"{problem}; {drain.outcome.reason}")
    most = at_once(*measured)
    before, after = (figures(one, most) for one in measured)
    require_difference(choices, before, after)
    rows = side_by_side(before, after, targets)
    missed = [row.name for row in rows if row.met is False]
    code = EXIT_CODES["fail" if drain.outcome.status != "ok" else "warn" if missed else "ok"]
    document = {
        "schema_version": 1,
        "kind": choices[0].kind,
        "before": {"choice": choices[0].value, **before},
        "after": {"choice": choices[1].value, **after},
        "rows": [row.as_json() for row in rows],
        "missed": missed,
        "attention": attention,
        "promises": [row.as_json() for row in promises(before, after, attention)],
        "service": drain.outcome.as_json(),
        "exit_code": code,
    }
    return {**document, "table": table_of(document)}


def _attention_gain() -> dict[str, Any]:
    """Return what `measure_gain` does; it imports torch, and touches the device: both in a child process."""
    context = CheckContext(expect={"stack": read_json(Path(sys.prefix) / "stack.json")})
    ending = run_one(lambda: resolve_name("verify.attention.speed:measure_gain")(context), deadline_s=ATTENTION_S)
    found: dict[str, Any] = {"problem": ending.problem} if ending.problem else ending.value
    return found


def table_of(document: Mapping[str, Any]) -> list[str]:
    """Return the lines of both tables: the measures with their targets, and what the first users were promised."""
    sides = [document[side] for side in ("before", "after")]
    details = " and ".join(f"{side['choice']} (layers use {', '.join(side['used']) or 'unknown'})" for side in sides)
    return [
        f"{document['kind']}: {details}; speeds with {sides[1]['at_once']} at once",
        *_lines(document["rows"]),
        "",
        f"promised to the first users; {attention_line(document['attention'])}",
        *_lines(document["promises"]),
        "",
        document["service"]["reason"],
    ]


def attention_line(attention: Mapping[str, Any]) -> str:
    """Return what the rows on attention compare, or why it was not measured."""
    if "problem" in attention:
        return f"attention was not measured: {attention['problem']}"
    batch, length, heads, dim = attention["point"]
    point = f"b{batch} s{length} h{heads} d{dim}"
    return f"attention: standard before, flash after, {point} in {attention['dtype']} on {attention['device']}"


def _lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [HEAD, "-" * len(HEAD)]
    for row in rows:
        before, after = (NOT_MEASURED if row[side] is None else f"{row[side]:.4g}" for side in ("before", "after"))
        change = NOT_MEASURED if row["change"] is None else f"{row['change']:+.1%}"
        lines.append(
            f"{row['title']:<28}{before:>12}{after:>12}  {row['unit']:<9}{change:>8}  {row['target']:<15}{row['verdict']}"
        )
    return lines


def _target(text: str) -> tuple[str, float]:
    """Parse a target such as `first_token=-40`, in per cent; for a share without an answer, the share in per cent."""
    name, _, value = text.partition("=")
    known = [measure["name"] for measure in table("compare")["measure"]]
    if name not in known:
        raise ValueError(f"no measure is named `{name}`; there are {', '.join(known)}")
    try:
        return name, float(value.rstrip("%")) / 100
    except ValueError:
        raise ValueError(f"`{text}` is no target: write {name}=-40 for 40 % less") from None


def _parser() -> Parser:
    parser = Parser(
        prog="verify compare",
        description="Measure this host's service with two choices; then restart it as it was.",
        epilog="exit codes: 0 every target is met, 1 one is missed, 2 the service did not come back, 3 a choice cannot "
        "be measured, 64 usage",
        hint="verify compare --backend FLASH_ATTN --backend TRITON_ATTN",
    )
    parser.add_argument(
        "--backend", metavar="NAME", action="append", default=[], help="a back end of attention; two are compared"
    )
    parser.add_argument(
        "--mode", choices=MODES, action="append", default=[], help="instead of back ends: with and without compilation"
    )
    parser.add_argument(
        "--target",
        metavar="NAME=CHANGE",
        action="append",
        default=[],
        help="wanted change of a measure, in per cent: first_token=-40; repeatable "
        f"({', '.join(measure['name'] for measure in table('compare')['measure'])})",
    )
    parser.add_argument("--prefix", metavar="DIR", type=Path, help="installation (default: this environment's)")
    parser.add_argument("--json", action="store_true", help="print the whole document on stdout")
    return parser
