"""The table of speed floors in docs/reference/verify.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from verify.tables import table

TARGET = "docs/reference/verify.md"
TABLE = "speed floors"
CARD = ("gemm_bfloat16", "gemm_fp8", "attention_64", "attention_128", "memory", "copy")
BOARD = ("bus", "pair", "both")
HEAD = """| GPU | bf16 products, TFLOP/s | fp8 products, TFLOP/s | attention, heads of 64 | attention, heads of 128 | memory, GB/s | copies, GB/s |
|---|---|---|---|---|---|---|"""
BOARDS = """
| complete board | all-reduce, GB/s | copies between two, GB/s | both directions, GB/s |
|---|---|---|---|"""


def generate() -> str:
    """Return both tables: of single GPUs, and of boards."""
    rows = table("speed")
    return "\n".join([HEAD, *_cards(rows), BOARDS, *_boards(rows)])


def _cards(rows: dict[str, Any]) -> Iterator[str]:
    for row in rows["card"]:
        yield f"| {_name(row)} | {' | '.join(_floor(row, kind, rows['share']) for kind in CARD)} |"


def _boards(rows: dict[str, Any]) -> Iterator[str]:
    for row in rows["board"]:
        floors = " | ".join(_floor(row, kind, rows["share"]) for kind in BOARD)
        yield f"| {row['cards']} times {_name(row)} | {floors} |"


def _name(row: dict[str, Any]) -> str:
    return "`{}`".format(row["match"].replace("|", "\\|"))


def _floor(row: dict[str, Any], kind: str, shares: dict[str, Any]) -> str:
    """Return the floor of a row; nothing where no figure is published."""
    return f"{row[kind] * row.get(f'{kind}_share', shares[kind]):,.4g}" if kind in row else ""
