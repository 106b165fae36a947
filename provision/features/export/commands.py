"""`./firstlight export`: hosts are planned from what they are, or from recorded facts, and described in a folder. No host is changed.

A command raises InventoryError where nothing of the fleet can be described in the format, NoStackError where no combination of versions
fits a host, and UsageError where the options do not fit, or a file is there already.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from provision.cli.groups import command_group
from provision.cli.options import MODELS, command
from provision.core.errors import Exit, InventoryError, NoStackError, UsageError
from provision.core.files import write_atomically
from provision.core.models.facts import HostFacts
from provision.core.models.inventory import Host
from provision.core.models.stack import Plan, Stack
from provision.features.export.formats import Format, endpoints_of, files_of, fits, readme, text_of
from provision.features.export.workloads import Workload, table, workloads
from provision.phases.plan import choose_stacks
from provision.pipeline import CommandRequest
from provision.pipeline.commands import planned_from, print_summary, recorded_facts, write_stdout
from provision.pipeline.phases import PLAN, PROBE
from provision.pipeline.runner import execute, read_inventory
from provision.report.layout import fold_names
from provision.run.context import left_out
from provision.run.results import PlannedHosts

README = "README.md"
app = command_group("Write files with which another system, such as Kubernetes, serves the same models.")


@command(app, "export", *MODELS)
def kubernetes(
    request: CommandRequest,
    *,
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="production-stack: values of the chart vllm-stack; lws: a LeaderWorkerSet for a model over several hosts; kserve: an LLMInferenceService; endpoints: the hosts as they are, for llm-d-router.",
        ),
    ] = "production-stack",
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the files; existing ones are kept.")
    ] = Path("kubernetes"),
    digest: Annotated[
        str | None,
        typer.Option(metavar="sha256:HEX", help="Digest of the image of the planned vLLM release."),
    ] = None,
    allow_tag: Annotated[
        bool, typer.Option("--allow-tag", help="Name the image by its tag alone, which its makers can move.")
    ] = False,
    facts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Facts of the hosts, as `probe --json` prints them: no host is contacted. Repeatable.",
        ),
    ] = None,
) -> int:
    """Write files for Kubernetes, or for a router, that serve the models of the hosts; no host is changed."""
    is_workload = kind != "endpoints"
    _require_image(digest, allow_tag=allow_tag, is_wanted=is_workload)
    if facts:
        hosts = read_inventory(request).hosts
        known: Mapping[str, HostFacts] = recorded_facts(facts)
        if absent := [host.name for host in hosts if host.is_serving and host.name not in known]:
            raise UsageError(
                f"the recorded facts have nothing of {fold_names(absent)}",
                hint="record these hosts too, or name the others by --limit",
            )
        chosen = _plan(hosts, known) if is_workload else Plan(classes=())
    else:
        outcome = execute(request, (PROBE, PLAN) if is_workload else (PROBE,))
        if outcome.exit_code != Exit.OK:
            return print_summary(outcome)
        hosts, known = outcome.hosts, outcome.result.facts
        chosen = outcome.result.plan if isinstance(outcome.result, PlannedHosts) else Plan(classes=())
    stacks = {name: one.stack for one in chosen.classes for name in one.hosts if one.stack and one.stack.vllm}
    out = {host.name: why.reason for host in hosts if (why := left_out(request.logs, host, known.get(host.name)))}
    files, missing, found = _described(kind, hosts, known, stacks, out=out, digest=digest)
    files[README] = readme(kind, hosts, found, stacks, missing)
    if there := [name for name in files if (output / name).exists()]:
        raise UsageError(f"`{output / there[0]}` exists already", hint="name another folder by -o, or remove the file")
    for name, text in files.items():
        write_atomically(output / name, text)
        write_stdout(f"{output / name} is written")
    return Exit.OK


def _require_image(digest: str | None, *, allow_tag: bool, is_wanted: bool) -> None:
    if not is_wanted:
        if digest or allow_tag:
            raise UsageError("`--format endpoints` names no image", hint="leave --digest and --allow-tag out")
    elif digest is None and not allow_tag:
        raise UsageError(
            "a tag can be moved to another image, and no digest of the image is named",
            hint="add --digest with what your registry shows for the tag, or --allow-tag",
        )
    elif digest is not None and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise UsageError(
            f"`{digest}` is no digest of an image", hint="write --digest sha256: and 64 hexadecimal digits"
        )


def _plan(hosts: Sequence[Host], facts: Mapping[str, HostFacts]) -> Plan:
    of = planned_from([host for host in hosts if host.is_serving], facts)
    chosen = choose_stacks(of.facts, of.settings, become=of.become, shapes=of.shapes, wheels=of.wheels)
    if refused := [name for one in chosen.classes if one.stack is None for name in one.hosts]:
        raise NoStackError(f"no combination of versions fits {fold_names(refused)}", hint="./firstlight plan says why")
    return chosen


def _described(
    kind: Format,
    hosts: Sequence[Host],
    facts: Mapping[str, HostFacts],
    stacks: Mapping[str, Stack],
    *,
    out: Mapping[str, str],
    digest: str | None,
) -> tuple[dict[str, str], dict[str, str], list[Workload]]:
    """Return the files, why hosts are not in them, and the workloads; `out` is why runs leave hosts out."""
    missing = {host.name: "it serves no model" for host in hosts if host.is_provisioned and not host.is_serving}
    if kind == "endpoints":
        heads = [host for host in hosts if host.is_serving and host.name == host.head]
        entries, absent = endpoints_of(heads, facts, out)
        files = {table()["format"][kind]["file"]: text_of([{"endpoints": entries}])} if entries else {}
        why = "; ".join(f"`{name}`: {reason}" for name, reason in absent.items()) or "no host serves a model"
        missing |= absent
        found: list[Workload] = []
    else:
        missing |= {host.name: "firstlight_vllm: none" for host in hosts if host.is_serving and host.name not in stacks}
        found = workloads(hosts, facts, stacks)
        images = {f"{each.tag.removeprefix('v')} ({each.platform})" for each in found if fits(kind, each)}
        if digest and len(images) > 1:
            raise UsageError(
                f"--digest names one image, and the hosts are planned with vLLM {' and '.join(sorted(images))}",
                hint="export the hosts of each release by --limit into a folder of its own",
            )
        files = files_of(kind, found, digest)
        why = "no model is spread over several hosts" if kind == "lws" else "no model is served by hosts on their own"
    if not files:
        raise InventoryError(f"--format {kind} has nothing to describe: {why}", hint="choose another --format")
    return files, missing, found


def add_to(program: typer.Typer) -> None:
    """Add the command to the program."""
    program.add_typer(app, name="export")
