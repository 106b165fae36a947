"""Options that several commands share, and the request that they make."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from provision.core.errors import UsageError
from provision.core.models.invocation import Invocation
from provision.pipeline import CommandRequest
from provision.pipeline.batches import Batching

ROOT = Path(__file__).resolve().parents[2]
LOGS = Path(os.environ.get("FIRSTLIGHT_LOGS") or ROOT / "logs")
LOCAL = ROOT / "inventory" / "local"
"""The inventory of this machine, used when none is given."""


def _inventory(text: str) -> Path:
    """Return the path of an inventory; an empty one would mean the working folder, and is refused."""
    if not text:
        raise typer.BadParameter("it is empty: give a file or a folder, or leave it out for this machine")
    return Path(text)


InventoryOption = Annotated[
    Path | None,
    typer.Option(
        "--inventory",
        "-i",
        parser=_inventory,
        metavar="PATH",
        help="Ansible inventory, a file or a folder. Default: this machine.",
    ),
]
LimitOption = Annotated[
    str | None, typer.Option("--limit", "-l", metavar="HOSTS", help="Hosts or groups, as Ansible writes them.")
]
BecomeOption = Annotated[
    bool, typer.Option("--ask-become-pass", "-K", help="Ask once for the sudo password of the hosts.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
ModelOption = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="`builtin`, a folder, or a hub id.")]
VllmOption = Annotated[
    str | None,
    typer.Option("--vllm", metavar="VERSION", help="latest (the newest that was tried), newest, none, X or >=X."),
]
DriverOption = Annotated[
    str | None, typer.Option("--driver", metavar="VERSION", help="keep, install, upgrade, X, or a branch such as 580.")
]
RebootOption = Annotated[
    bool | None,
    typer.Option("--reboot", help="Restart a host whose driver needs it, and continue.", show_default=False),
]
FlashAttnOption = Annotated[
    str | None, typer.Option("--flash-attn", metavar="VERSION", help="auto, bundled, package, both, none or X.")
]
FlashWheelsOption = Annotated[
    str | None,
    typer.Option(
        "--flash-attn-wheels", metavar="SOURCE", help="official, or community: also wheels that others built."
    ),
]
RefreshOption = Annotated[bool, typer.Option("--refresh", help="Lock again, so that newer releases are considered.")]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", envvar="FIRSTLIGHT_BUNDLE", help="Take everything from this file; no network is used."),
]
TrustOption = Annotated[
    str | None,
    typer.Option("--trust", metavar="KEY", help="The key that signed the bundle: a file, or the key itself."),
]
OlderBundleOption = Annotated[
    bool, typer.Option("--older-bundle", help="Accept a bundle that is older than the last one of a host.")
]
BatchOption = Annotated[
    str | None,
    typer.Option("--batch", metavar="N|N%", help="Change this many hosts at a time; the next ones when these serve."),
]
MaxFailOption = Annotated[
    str | None,
    typer.Option("--max-fail", metavar="N|N%", help="With --batch: failed hosts that stop no batch. Default: 0."),
]
AttentionOption = Annotated[
    str | None, typer.Option("--attention", metavar="BACKEND", help="auto, flash, or a back end's name.")
]


def asked(
    command: str,
    *,
    inventory: Path | None,
    limit: str | None,
    ask_become_pass: bool = False,
    refresh: bool = False,
    bundle: Path | None = None,
    trust: str | None = None,
    older_bundle: bool = False,
    batch: str | None = None,
    max_fail: str | None = None,
    **policy: Any,
) -> CommandRequest:
    """Return a command as the pipeline reads it; ask for the sudo password where that is requested.

    Args:
        command: The name of the command.
        inventory: The inventory; this machine's when None.
        limit: Hosts or groups.
        ask_become_pass: Whether to ask for the sudo password.
        refresh: Whether to lock again what is locked already.
        bundle: The bundle that replaces all indexes.
        trust: The key that must have signed the bundle.
        older_bundle: Whether the bundle may be older than the last one of a host.
        batch: Hosts that change at a time: a number or a percentage.
        max_fail: Failed hosts with which the next batch still begins: a number or a percentage.
        **policy: Settings of hosts by name; those that are None are left out.

    Raises:
        UsageError: The options contradict one another, or no password can be read.
    """
    if trust is not None and bundle is None:
        raise UsageError(
            "--trust is the key of a bundle, and there is no --bundle", hint="add --bundle FILE, or leave --trust out"
        )
    if older_bundle and bundle is None:
        raise UsageError(
            "--older-bundle accepts a bundle, and there is no --bundle",
            hint="add --bundle FILE, or leave --older-bundle out",
        )
    password = None
    if ask_become_pass:
        try:
            password = getpass.getpass("sudo password on the hosts: ")
        except EOFError:
            raise UsageError(
                "no password could be read: standard input has ended", hint="run it where you can type, without a pipe"
            ) from None
    flags = {"-K": ask_become_pass, "--refresh": refresh, "--older-bundle": older_bundle}
    named = {"--bundle": str(bundle) if bundle else None, "--trust": trust, "--batch": batch, "--max-fail": max_fail}
    options = {f"--{name.replace('_', '-')}": value for name, value in policy.items()} | named
    return CommandRequest(
        command=command,
        inventory=inventory or LOCAL,
        limit=limit,
        overrides={name: value for name, value in policy.items() if value is not None},
        become_password=password,
        refresh=refresh,
        bundle=bundle,
        trust=trust,
        older_bundle=older_bundle,
        batching=Batching.parse(batch, max_fail),
        logs=LOGS,
        arguments=tuple(sys.argv[1:]),
        invocation=Invocation(
            inventory=None if inventory is None else str(inventory),
            limit=limit,
            options=dict(_typed(options)) | {name: None for name, is_on in flags.items() if is_on},
        ),
    )


def refuse_with(option: str, **others: Any) -> None:
    """Refuse options that have no effect together with another one.

    Raises:
        UsageError: One of them was given.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value is not None]
    if given:
        raise UsageError(
            f"{' and '.join(given)} selects hosts of an inventory, and {option} uses no inventory",
            hint=f"leave out {' and '.join(given)}, or {option}",
        )


def _typed(options: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """Yield the options that were given; a switch by the name that contains its value."""
    for name, value in options.items():
        if isinstance(value, bool):
            yield (name if value else f"--no-{name.removeprefix('--')}"), None
        elif value is not None:
            yield name, str(value)
