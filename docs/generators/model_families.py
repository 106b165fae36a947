"""The table of model families in docs/reference/models.md."""

from __future__ import annotations

from provision.phases.plan.family.families import Family, Kind, families, parsers

TARGET = "docs/reference/models.md"
TABLE = "families"


def generate() -> str:
    """Return the table: a row for each family, in the order in which they are tried."""
    head = ["family", "recognised by", "tool parser", "reasoning parser", "also", "source"]
    return "\n".join([_line(head), _line(["---"] * len(head)), *(_line(_cells(row)) for row in families().values())])


def _cells(row: Family) -> list[str]:
    conditions = [", ".join(f"`{name}`" for name in row.architectures)]
    conditions += [f"`{path.partition('|')[0]}: {value}`" for path, value in (row.config or {}).items()]
    conditions += [f"a name with `{row.named.removeprefix('(?i)')}`"] if row.named else []
    also = [f"`{' '.join(argument['words'])}`" for argument in row.arguments]
    also += [text for text in (row.template, row.code) if text]
    cells = [row.name, "; ".join(conditions), _parser("tool", row.tools), _parser("reasoning", row.reasoning)]
    return [cell.replace("|", "\\|") for cell in (*cells, "; ".join(also), row.source)]


def _parser(kind: Kind, name: str | None) -> str:
    return f"`{name}`, {parsers(kind)[name].since}" if name else ""


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
