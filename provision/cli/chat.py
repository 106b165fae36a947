"""`./firstlight chat`: a prompt for the model of a host, and its answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from provision.cli.options import BecomeOption, InventoryOption, asked


def chat(
    *,
    host: Annotated[
        str | None,
        typer.Argument(
            metavar="HOST", help="A host that serves, or a gateway. Not needed if there is one host or one gateway."
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What to ask. Without it, a conversation: a prompt for each line, until Ctrl-D."
        ),
    ] = None,
    inventory: InventoryOption = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", min=1, help="The longest answer, in tokens.")
    ] = 256,
    ask_become_pass: BecomeOption = False,
) -> None:
    """Send a prompt to the model of a host, and print the answer as it is generated."""
    from provision.pipeline import chat as pipeline

    request = asked("chat", inventory=inventory, ask_become_pass=ask_become_pass)
    raise typer.Exit(pipeline.chat(request, host, prompt, _read, max_tokens=max_tokens))


def _read() -> str | None:
    """Return the next line of standard input; None at its end."""
    is_typed = sys.stdin.isatty()
    try:
        return input("> " if is_typed else "")
    except EOFError:
        sys.stderr.write("\n" if is_typed else "")
        return None
