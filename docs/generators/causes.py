"""The page docs/reference/causes.md."""

from __future__ import annotations

from collections.abc import Iterator

from verify.doctor.catalog import Cause, Fix, FixCheck, load_causes
from verify.doctor.scoring import SURE_AT

TARGET = "docs/reference/causes.md"
PIPE = "\\|"
OPTIONS = (
    "The commands show few options. Repeat your `-i`, `--limit` and `-K`, and the `--model` of your last run: without it, and without a model in the "
    "inventory, `provision` and `serve` stop where a host serves a model of yours. `./firstlight doctor --limit NAME` prints the commands with "
    "your inventory and host."
)
SIGNS = 6
"""Number of signs shown, those with the highest weight; the file of the cause has all."""


def generate() -> str:
    """Return the whole page."""
    causes = load_causes()
    lines = [
        "# Causes",
        "",
        "The causes that `./firstlight doctor` knows, written by `./firstlight docs` from `verify/doctor/causes/`.",
        "",
        f"- *Signs* are log lines that point to the cause, the {SIGNS} strongest first. One in bold is enough for a sure finding (a weight of {SURE_AT} or more).",
        "- *Evidence against it* lists log lines that make the cause less likely.",
        "- *Explains* lists causes that the doctor ranks lower if it also finds this one, with the reason.",
        "- *Needs* lists what a step requires. `./firstlight doctor --limit NAME --apply` can run steps with a tag; a person does the others.",
        "",
        OPTIONS,
        "",
        "| cause | what it is | `--apply` |",
        "|---|---|---|",
        *map(_row, causes),
    ]
    for cause in causes:
        lines += ["", *_section(cause)]
    return "\n".join(lines) + "\n"


def _section(cause: Cause) -> Iterator[str]:
    yield f"## {cause.id}"
    yield ""
    yield cause.definition.strip()
    yield ""
    yield cause.explanation.strip()
    yield ""
    weights: dict[str, float] = {}
    for signature in sorted(cause.signatures, key=lambda each: -each.weight):
        weights.setdefault(signature.why, signature.weight)
    yield "Signs:"
    yield ""
    for why, weight in list(weights.items())[:SIGNS]:
        yield f"- **{_line(why)}**" if weight >= SURE_AT else f"- {_line(why)}"
    for title, whys in (
        ("Evidence against it", [counter.why for counter in cause.counters]),
        ("Explains", [f"[{other.cause}](#{other.cause}) ({other.why})" for other in cause.overrides]),
    ):
        if whys:
            yield ""
            yield f"{title}: {'; '.join(dict.fromkeys(map(_line, whys)))}."
    yield ""
    yield "What to do:"
    yield ""
    for number, fix in enumerate(cause.fixes, 1):
        yield from _step(number, fix)
    yield ""
    yield from _check(cause.check)
    yield ""
    yield f"See {', '.join(f'<{reference}>' for reference in cause.references)}"


def _step(number: int, fix: Fix) -> Iterator[str]:
    needs = f" Needs {', '.join(fix.needs)}." if fix.needs else ""
    tag = f" Tag `{fix.tag}`." if fix.safe else ""
    yield f"{number}. {_line(fix.text)}.{needs}{tag}"
    if fix.command.strip():
        yield ""
        yield "   ```sh"
        yield from (f"   {line}" for line in fix.command.strip().splitlines())
        yield "   ```"
        yield ""


def _check(check: FixCheck) -> Iterator[str]:
    yield f"Check the fix. Expected: {check.expect.strip()}."
    if check.command.strip():
        yield ""
        yield "```sh"
        yield check.command.strip()
        yield "```"


def _row(cause: Cause) -> str:
    cells = (
        f"[{cause.id}](#{cause.id})",
        _line(cause.definition),
        ", ".join(f"`{fix.tag}`" for fix in cause.fixes if fix.safe),
    )
    return f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |"


def _line(text: str) -> str:
    return " ".join(text.split())
