"""Options that several commands share, and the request that they make."""

from __future__ import annotations

import getpass
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from provision.core.errors import UsageError
from provision.core.folders import default_inventory, logs_folder
from provision.core.models.invocation import Invocation
from provision.core.models.settings import OPTIONS
from provision.pipeline import CommandRequest
from provision.pipeline.batches import Batching

Command = TypeVar("Command", bound=Callable[..., None])
LOGS = logs_folder()


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
        help="Ansible inventory, a file or a folder. Default: this machine; for an installed tool, ~/.config/firstlight/inventory if it exists.",
    ),
]
LimitOption = Annotated[
    str | None,
    typer.Option("--limit", "-l", metavar="HOSTS", help="Only these hosts or groups, in Ansible's pattern syntax."),
]
BecomeOption = Annotated[
    bool, typer.Option("--ask-become-pass", "-K", help="Ask once for the sudo password of the hosts.")
]
VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print every detail on standard error, line by line, instead of a table."),
]
YesOption = Annotated[
    bool,
    typer.Option(
        "--yes", "-y", help="Do not ask for confirmation. Without a terminal nothing is asked, and the command runs."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        help="Model to serve: builtin, a folder on this machine, or a hub id such as org/name. Default: that of the inventory, else builtin, even if the host serves another model now.",
    ),
]
VllmOption = Annotated[
    str | None,
    typer.Option(
        "--vllm",
        metavar="VERSION",
        help="latest (the newest tested), newest (tested or not), none, or a version: 0.33.0 or '>=0.32.0'. Default: latest.",
    ),
]
DriverOption = Annotated[
    str | None,
    typer.Option(
        "--driver",
        metavar="VERSION",
        help="keep (a working driver stays, GPUs without one get one), install (also reinstalls a driver that does not answer), upgrade (also replaces one that is too old for the chosen versions), a version, or a branch such as 580. Default: keep.",
    ),
]
RebootOption = Annotated[
    bool | None,
    typer.Option(
        "--reboot", help="Restart a host if its driver needs it, then continue; never this machine.", show_default=False
    ),
]
FlashAttnOption = Annotated[
    str | None,
    typer.Option(
        "--flash-attn",
        metavar="VERSION",
        help="Flash attention kernels: auto (bundled, and the package where a wheel fits), bundled (those in vLLM), package (flash-attn), both, none, or a version of the package. Default: auto.",
    ),
]
FlashWheelsOption = Annotated[
    str | None,
    typer.Option(
        "--flash-attn-wheels",
        metavar="SOURCE",
        help="Whose flash-attn wheels to accept: official (its authors'), or community (others' too). Default: official.",
    ),
]
RefreshOption = Annotated[
    bool,
    typer.Option("--refresh", help="Resolve the dependencies again, instead of reusing the versions of earlier runs."),
]
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="FILE",
        envvar="FIRSTLIGHT_BUNDLE",
        help="Take all files from this bundle; no network is used.",
    ),
]
TrustOption = Annotated[
    str | None,
    typer.Option(
        "--trust",
        metavar="KEY",
        help="Accept only a bundle that was signed with the private key of this public key. Give a file or the key itself. Default: ~/.config/firstlight/bundle.pub, which `bundle create` makes.",
    ),
]
OlderBundleOption = Annotated[
    bool, typer.Option("--older-bundle", help="Accept a bundle that is older than the last one used for a host.")
]
BatchOption = Annotated[
    str | None,
    typer.Option(
        "--batch",
        metavar="N|N%",
        help="Change this many hosts at a time. The next batch starts when all of them serve.",
    ),
]
MaxFailOption = Annotated[
    str | None,
    typer.Option(
        "--max-fail",
        metavar="N|N%",
        help="With --batch: start no further batch when more than this many hosts have failed. Default: 0.",
    ),
]
AttentionOption = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="BACKEND",
        help="Attention back end of vLLM: auto (flash attention if possible), flash (flash attention or an error), or a name such as TRITON_ATTN. Default: auto.",
    ),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Address that the service listens on (setting firstlight_bind). Default: 127.0.0.1. An address that other machines can reach also needs --set expose=true.",
    ),
]
PortOption = Annotated[
    str | None,
    typer.Option(
        "--port", metavar="PORT", help="Port that the service listens on (setting firstlight_port). Default: 8000."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any setting of the inventory, without its prefix: --set max_model_len=8192, --set gpus='[0, 1]'. Repeatable.",
    ),
]


def _hosts(*, inventory: InventoryOption = None, limit: LimitOption = None, verbose: VerboseOption = False) -> None:
    """Declare the options of every command that works on hosts."""


def _planning(
    *,
    model: ModelOption = None,
    vllm: VllmOption = None,
    driver: DriverOption = None,
    flash_attn: FlashAttnOption = None,
    flash_attn_wheels: FlashWheelsOption = None,
    attention: AttentionOption = None,
    assignments: SetOption = None,
) -> None:
    """Declare the options of every command that plans."""


def _listening(*, host: HostOption = None, port: PortOption = None) -> None:
    """Declare where the service listens."""


def _restarting(*, reboot: RebootOption = None) -> None:
    """Declare the option of commands that install drivers, or plan that."""


def _staging(
    *,
    refresh: RefreshOption = False,
    bundle: BundleOption = None,
    trust: TrustOption = None,
    older_bundle: OlderBundleOption = False,
) -> None:
    """Declare the options of commands that fetch what is planned."""


def with_hosts(command: Command) -> Command:
    """Let a command take the options of hosts in place of its `**options`."""
    return with_options(command, _hosts)


def with_planning(command: Command) -> Command:
    """Let a command take the options of hosts and of planning in place of its `**options`."""
    return with_options(command, _hosts, _planning, _listening, _restarting)


def with_drivers(command: Command) -> Command:
    """Let a command that only installs drivers take the options that affect them in place of its `**options`."""
    return with_options(command, _hosts, _planning, _restarting)


def with_service(command: Command) -> Command:
    """Let a command that only starts the service take the options that affect it in place of its `**options`."""
    return with_options(command, _hosts, _planning, _listening)


def with_staging(command: Command) -> Command:
    """Let a command take the options of hosts, of planning and of staging in place of its `**options`."""
    return with_options(command, _hosts, _planning, _listening, _restarting, _staging)


def with_options(command: Command, *shared: Callable[..., None]) -> Command:
    """Let a command take the options of other functions in place of its `**options`: typer reads them from its signature."""
    declared: list[Callable[..., None]] = [*shared, command]
    signatures = [inspect.signature(one, eval_str=True) for one in declared]
    parameters = [each for one in signatures for each in one.parameters.values() if each.kind != each.VAR_KEYWORD]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command


def asked(
    command: str,
    *,
    inventory: Path | None = None,
    limit: str | None = None,
    verbose: bool = False,
    ask_become_pass: bool = False,
    refresh: bool = False,
    bundle: Path | None = None,
    trust: str | None = None,
    older_bundle: bool = False,
    batch: str | None = None,
    max_fail: str | None = None,
    assignments: Sequence[str] | None = None,
    host: str | None = None,
    **settings: Any,
) -> CommandRequest:
    """Return a command as the pipeline reads it; ask for the sudo password where that is requested.

    Args:
        command: The name of the command.
        inventory: The inventory; this machine's when None.
        limit: Hosts or groups.
        verbose: Whether every detail is printed.
        ask_become_pass: Whether to ask for the sudo password.
        refresh: Whether to lock again what is locked already.
        bundle: The bundle that replaces all indexes.
        trust: The key that must have signed the bundle.
        older_bundle: Whether the bundle may be older than the last one of a host.
        batch: Hosts that change at a time: a number or a percentage.
        max_fail: Failed hosts with which the next batch still begins: a number or a percentage.
        assignments: Settings of hosts as `NAME=VALUE`.
        host: Address that the service listens on.
        **settings: Settings of hosts by name; those that are None are left out.

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
    given = {name: value for name, value in {**settings, "bind": host}.items() if value is not None}
    assigned = _assigned(assignments or ())
    if twice := sorted(given.keys() & assigned.keys()):
        raise UsageError(
            f"`{twice[0]}` is set twice: by {OPTIONS[twice[0]]} and by --set", hint="leave one of the two out"
        )
    password = _ask_password() if ask_become_pass else None
    flags = {"-K": ask_become_pass, "--refresh": refresh, "--older-bundle": older_bundle}
    named = {"--bundle": bundle, "--trust": trust, "--batch": batch, "--max-fail": max_fail}
    options = {OPTIONS[name]: value for name, value in given.items()} | named
    return CommandRequest(
        command=command,
        inventory=inventory or default_inventory(),
        limit=limit,
        overrides=given | assigned,
        become_password=password,
        refresh=refresh,
        bundle=bundle,
        trust=trust,
        older_bundle=older_bundle,
        batching=Batching.parse(batch, max_fail),
        logs=LOGS,
        verbose=verbose,
        arguments=tuple(sys.argv[1:]),
        invocation=Invocation(
            inventory=None if inventory is None else str(inventory),
            limit=limit,
            options=dict(_typed(options)) | {name: None for name, is_on in flags.items() if is_on},
            settings=tuple(assignments or ()),
        ),
    )


def _assigned(assignments: Sequence[str]) -> dict[str, Any]:
    """Return settings by name from `NAME=VALUE`; a value is read as in an inventory file.

    Raises:
        UsageError: One has no name or no `=`.
    """
    if not assignments:
        return {}
    import yaml

    from provision.fleet.inventory.settings import PREFIX

    assigned = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"`--set {text}` has no value", hint="write --set NAME=VALUE, such as --set port=8001")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:  # text such as `>=0.30`, which a file has in quotes
            read = value
        assigned[name.replace("-", "_").removeprefix(PREFIX)] = read
    return assigned


def _ask_password() -> str:

    try:
        return getpass.getpass("sudo password on the hosts: ")
    except EOFError:
        raise UsageError(
            "no password could be read: standard input has ended", hint="run it where you can type, without a pipe"
        ) from None


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
    """Yield the options that were given."""
    for name, value in options.items():
        if value is not None:
            yield name, None if value is True else str(value)
