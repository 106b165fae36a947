"""The page docs/reference/causes.md, from the catalogue: `python -m verify.doctor.page > docs/reference/causes.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from verify.doctor.catalog import Cause, Check, Fix, catalogue
from verify.doctor.score import SURE_AT

PIPE = "\\|"
SIGNS = 6
"""The most telling signs of a cause that are told; its file has all."""


def page() -> str:
    """docs/reference/causes.md."""
    causes = catalogue()
    lines = [
        "# Causes",
        "",
        f"The {len(causes)} causes that `./firstlight doctor` knows, made from `verify/doctor/causes/`, which also holds the patterns. A sign in bold makes",
        f"the doctor sure by itself ({SURE_AT} and more). A step with a tag may be taken by `./firstlight doctor --host NAME --apply`; all others are a person's.",
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
    told: dict[str, float] = {}
    for signature in sorted(cause.signatures, key=lambda each: -each.weight):
        told.setdefault(signature.why, signature.weight)
    yield "Signs:"
    yield ""
    for why, weight in list(told.items())[:SIGNS]:
        yield f"- **{_line(why)}**" if weight >= SURE_AT else f"- {_line(why)}"
    for title, whys in (
        ("Speaks against it", [counter.why for counter in cause.counters]),
        ("Explains", [f"[{beats.cause}](#{beats.cause}) ({beats.why})" for beats in cause.beats]),
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


def _check(check: Check) -> Iterator[str]:
    yield f"It worked when: {check.expect.strip()}."
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


if __name__ == "__main__":
    sys.stdout.write(page())
