"""`./firstlight bundle`: everything that hosts need, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import HelpGroup
from provision.cli.options import (
    AttentionOption,
    FlashAttnOption,
    FlashWheelsOption,
    InventoryOption,
    LimitOption,
    ModelOption,
    RefreshOption,
    VllmOption,
    asked,
    refuse_with,
)

app = typer.Typer(
    cls=HelpGroup, no_args_is_help=True, rich_markup_mode=None, help="Everything that hosts need, in one signed file."
)


@app.command("create")
def create(
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    what_if: Annotated[
        str | None, typer.Option("--what-if", help="A described host instead of an inventory: `key=value ...`.")
    ] = None,
    model: ModelOption = None,
    vllm: VllmOption = None,
    flash_attn: FlashAttnOption = None,
    flash_attn_wheels: FlashWheelsOption = None,
    attention: AttentionOption = None,
    refresh: RefreshOption = False,
    key: Annotated[
        Path | None, typer.Option("--key", help="Secret key of minisign. Default: your own, created on first use.")
    ] = None,
) -> None:
    """Fetch everything that hosts need into one signed file, for networks without a package index."""
    from provision.pipeline import bundle

    if what_if is not None:
        refuse_with("--what-if", limit=limit)
    wanted = asked(
        "bundle",
        inventory=inventory,
        limit=limit,
        model=model,
        vllm=vllm,
        flash_attn=flash_attn,
        flash_attn_wheels=flash_attn_wheels,
        attention=attention,
        refresh=refresh,
    )
    raise typer.Exit(bundle.create(wanted, what_if=what_if, output=output, key=key))
