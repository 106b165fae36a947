"""`./firstlight wheels`: build packages from source before a run, and list what was built."""

import json
import re
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from provision.catalog import catalog
from provision.catalog.index.project_page import find_sources
from provision.catalog.index.settings import read_settings
from provision.catalog.rows.builds import Torch
from provision.catalog.versions import cuda_of, minor, numbers, release
from provision.cli.groups import command_group
from provision.cli.options import JsonOption
from provision.core.errors import UsageError
from provision.core.folders import cache_folder, default_inventory
from provision.core.formatting import format_bytes
from provision.core.models.stack import AttentionPlan, FlashAttnKey, FlashAttnPlan, Interpreter, Stack, TorchBuild
from provision.features.wheel_builder.build import BuildCache, BuildJob, BuiltWheel, require_builder
from provision.features.wheel_builder.recipes import FLASH_ATTN, BuildKey
from provision.features.wheel_builder.wheel_builder import make_wheel_builder
from provision.phases.plan.assemble import platform
from provision.phases.plan.build_option import TORCH_INDEX
from provision.phases.stage import Store
from provision.phases.stage.solve import Target
from provision.phases.stage.stack_lock import fetch_wheels, lock_stack
from provision.pipeline.commands import write_stdout
from provision.pipeline.runner import as_interrupt
from provision.report.live import report_progress

app = command_group("Build packages such as flash-attn from source, once for all hosts.")


@app.command("build")
def build(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="NAME==VERSION; `flash-attn` alone means its newest release.")
    ] = "flash-attn",
    *,
    torch: Annotated[
        str,
        typer.Option(
            "--torch",
            metavar="VERSION",
            help="The torch release that the wheel is for, such as 2.11.0 or 2.11.0+cu130.",
        ),
    ],
    arch: Annotated[
        list[str],
        typer.Option("--arch", metavar="CAPABILITY", help="Compute capability of the GPUs, such as 9.0. Repeatable."),
    ],
    cuda: Annotated[
        str | None,
        typer.Option(
            "--cuda", metavar="VERSION", help="Release of the CUDA toolkit to build with. Default: that of torch."
        ),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(
            "--python",
            metavar="VERSION",
            help="Python version that the wheel is for, such as 3.12. Default: that of Firstlight itself.",
        ),
    ] = None,
    builder: Annotated[
        str,
        typer.Option(
            "--builder", metavar="HOST", help="Where to build: `controller` (this machine), or a host of the inventory."
        ),
    ] = "controller",
    inventory: Annotated[
        Path | None,
        typer.Option(
            "--inventory", "-i", metavar="PATH", help="Inventory that contains the builder. Default: this machine."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a wheel, or print the path of an existing one; an interrupted build continues where it stopped."""
    name, version = _package(package)
    for option, given, example in (("--cuda", cuda, "13.0"), ("--python", python, "3.12")):
        if given is not None and not re.fullmatch(r"\d{1,3}\.\d{1,3}", given):
            raise UsageError(f"`{option} {given}` is not a release", hint=f"write two numbers, as {option} {example}")
    row, variant = _torch(torch, cuda)
    toolkit = cuda or cuda_of(variant)
    if toolkit is None:
        raise UsageError(f"torch {torch} is of no CUDA release", hint="name the toolkit: --cuda 13.0")
    capabilities = tuple(sorted({_capability(one) for one in arch}, key=numbers))
    store = Store(cache_folder())
    wheel_builder = make_wheel_builder(store, inventory or default_inventory())
    minor_python = python or "{}.{}".format(*sys.version_info[:2])
    with closing(wheel_builder.open_builder(builder)) as session:
        facts = wheel_builder.build_host(builder, session).read_facts(minor_python, toolkit)
    key = BuildKey(
        name=name,
        version=version,
        built_for=FlashAttnKey(
            cuda_major=numbers(toolkit)[0],
            rocm=None,
            torch=minor(row.version),
            cxx11_abi=row.cxx11_abi,
            python=minor_python,
            machine=facts.machine,
            glibc=facts.glibc or row.glibc,
            capabilities=capabilities,
        ),
    )
    if found := BuildCache(store).find(key):
        _print(found, store, as_json=as_json)
        return
    require_builder(key, toolkit, builder, facts)
    stack = _stack(row, variant, minor_python, platform(facts.machine, facts.glibc or row.glibc))
    sources = find_sources(read_settings())
    wheels = lock_stack(stack, sources, store).wheels
    fetch_wheels(wheels, sources, store, progress=_report)
    target = Target.of(stack.platform, minor_python)
    try:
        with as_interrupt():
            built = wheel_builder.find_or_build(
                BuildJob(key, wheels, target, toolkit, sources, store, _report), builder
            )
    except KeyboardInterrupt:
        _report(f"stopped; nothing of it runs on {builder} any more; the same command continues there", 0, 0)
        raise
    _print(built, store, as_json=as_json)


@app.command("list")
def show(as_json: JsonOption = False) -> None:
    """List the wheels that were built."""
    store = Store(cache_folder())
    found = [built for built in BuildCache(store) if store.find(built.sha256, built.name)]
    if as_json:
        write_stdout(json.dumps([built.model_dump(mode="json") for built in found], indent=2))
    else:
        write_stdout("\n".join(_line(built) for built in found) or "nothing was built yet")


def _print(built: BuiltWheel, store: Store, *, as_json: bool) -> None:
    path = store.path(built.sha256, built.name)
    write_stdout(built.model_dump_json(indent=2) if as_json else f"{path}\n{_line(built)}")


def _line(built: BuiltWheel) -> str:
    codes = ", ".join(f"sm_{code}" for code in built.codes if not code.startswith("p"))
    spent = f"{built.cpu_seconds:.0f} CPU seconds on {built.builder}, {built.jobs} at once"
    return f"{built.key.slug}  {format_bytes(built.size)}  {codes or 'no GPU code'}  torch {built.torch}  {spent}  {built.built_at}"


def _stack(row: Torch, variant: str, python: str, tag: str) -> Stack:
    """Return a Stack of torch alone."""
    index = None if variant == row.default(tag.partition("-")[0]) else TORCH_INDEX.format(variant=variant)
    return Stack(
        vllm=None,
        torch=TorchBuild(version=row.version, variant=variant, index=index),
        flash_attn=FlashAttnPlan(provider="none"),
        attention=AttentionPlan(backend="NO_ATTENTION"),
        python=python,
        interpreter=Interpreter(version=python, origin="host"),
        platform=tag,
    )


def _package(text: str) -> tuple[str, str]:
    """Return name and release of a package; without a release, of flash-attn the newest of the catalog."""
    try:
        need = Requirement(text)
    except InvalidRequirement:
        need = None
    pins = [clause for clause in need.specifier if clause.operator == "=="] if need else []
    if need and len(pins) == 1:
        return canonicalize_name(need.name), pins[0].version
    if need and canonicalize_name(need.name) == FLASH_ATTN and not need.specifier:
        return FLASH_ATTN, max((row.version for row in catalog().flash_sources), key=release)
    raise UsageError(f"`{text}` names no release of a package", hint="write NAME==VERSION, as flash-attn==2.8.3")


def _torch(text: str, cuda: str | None) -> tuple[Torch, str]:
    version, _, variant = text.partition("+")
    row = next((row for row in catalog().torches if row.version == version), None)
    if row is None:
        raise UsageError(
            f"the catalog knows no torch {version}", hint="./firstlight catalog refresh reads new releases"
        )
    variant = variant or (f"cu{cuda.replace('.', '')}" if cuda else row.default_x86_64)
    if variant.startswith("rocm"):
        raise UsageError(
            "this command builds for CUDA", hint="for ROCm name who builds in the inventory: firstlight_builder: HOST"
        )
    offered = tuple(dict.fromkeys((*row.cuda, *row.cuda_aarch64, "cpu")))
    if variant not in offered:
        raise UsageError(f"there is no torch {version}+{variant}", hint=f"there are {', '.join(offered)}")
    return row, variant


def _capability(arch: str) -> str:
    """Return `9.0` for `90`, `9.0` and `sm_90`."""
    found = re.fullmatch(r"(?:sm_)?(\d+)\.?(\d)", arch)
    if not found:
        raise UsageError(f"`{arch}` is no architecture", hint="write the compute capability: --arch 9.0, or --arch 90")
    return f"{found[1]}.{found[2]}"


def _report(what: str, done: int, total: int) -> None:
    """Print each step of a build, and the bytes of a download where a person looks on."""
    if total:
        report_progress(what, done, total)
    else:
        sys.stderr.write(f"{what}\n")
        sys.stderr.flush()


def add_to(program: typer.Typer) -> None:
    """Add the commands to the program."""
    program.add_typer(app, name="wheels")
