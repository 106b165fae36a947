"""Where flash kernels come from: inside vLLM's wheel, and whether the separate package goes beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from provision.catalog import catalog
from provision.catalog.rows import FlashWheels
from provision.catalog.versions import cuda_of, minor, numbers, release
from provision.models.stack import FlashAttnPackage, FlashAttnPlan
from provision.resolve import attention, code, interpreter
from provision.resolve.option import Option
from provision.resolve.view import View

FILE = "flash_attn-{version}+{cuda}torch{torch}cxx11abi{abi}-{cp}-{cp}-linux_{machine}.whl"


@dataclass(frozen=True, slots=True)
class Chosen:
    """`refused` says why a package that was asked for cannot be had."""

    plan: FlashAttnPlan
    why: str
    refused: str | None = None
    source: str | None = None


def choose(option: Option, view: View) -> Chosen:
    """The flash-attn part of a candidate."""
    policy = view.policy.flash_attn
    if view.platform != "cuda" or policy == "none":
        why = "flash kernels are switched off" if policy == "none" else f"no flash kernels on {view.platform}"
        asked = policy in {"package", "both"}
        refused = f"no wheel of the flash-attn package is published for {view.platform}" if asked else None
        return Chosen(FlashAttnPlan(provider="none"), why, refused)
    bundled = _bundled(option, view)
    if policy == "bundled":
        return Chosen(bundled, "the kernels inside vLLM's wheel, by policy")
    row, missing = wheel(option, view)
    if row is None:
        wanted = policy in {"package", "both"}
        return Chosen(
            bundled,
            f"no package beside: {missing}",
            f"the flash-attn package was asked for: {missing}" if wanted else None,
        )
    name = _file(row, option, view)
    plan = bundled.model_copy(update={"package": FlashAttnPackage(version=row.version, source="wheel", file=name)})
    if option.release is None:
        plan = FlashAttnPlan(provider="wheel", version=row.version, source=name, package=plan.package)
    decodes = "; vLLM decodes with its own kernels all the same" if option.release else ""
    return Chosen(plan, f"flash-attn {row.version} has the exact wheel {name}{decodes}", source=row.source)


def _bundled(option: Option, view: View) -> FlashAttnPlan:
    if option.release is None:
        return FlashAttnPlan(provider="none")
    plan = attention.choose(option, view).plan
    if plan is None or plan.backend != attention.FLASH:
        return FlashAttnPlan(provider="none")
    return FlashAttnPlan(
        provider="bundled", version=option.release.flash_commit, source="vllm_flash_attn in the vLLM wheel"
    )


def wheel(option: Option, view: View) -> tuple[FlashWheels | None, str]:
    """The newest published wheel with the exact key of a candidate, or why there is none."""
    chosen = interpreter.choose(option, view).interpreter
    python = minor(chosen.version) if chosen else ""
    torch, tag = minor(option.torch.version), f"cu{numbers(cuda_of(option.torch_variant) or '0')[0]}"
    machine = view.machine or "x86_64"
    if torch not in _torches():
        return None, f"published wheels end at torch {max(_torches(), key=numbers)}, this Stack has {torch}"
    for row in sorted(catalog().flash_wheels, key=lambda row: release(row.version), reverse=True):
        fits = torch in row.torch and tag in row.cuda and python in row.pythons and machine in row.machines
        if not fits or f"{torch}/{python}" in row.without:
            continue
        if view.glibc and numbers(view.glibc) < numbers(row.glibc):
            continue
        if all(
            code.coverage(row.codes, card.compute_capability) is code.Coverage.NATIVE
            for card in view.used
            if card.compute_capability
        ):
            return row, ""
    return (
        None,
        f"no published wheel is for torch {torch}, {tag}, Python {python}, {machine}, this glibc and these cards",
    )


@cache
def _torches() -> frozenset[str]:
    """The torch minors that any published wheel is for."""
    return frozenset(torch for row in catalog().flash_wheels for torch in row.torch)


def _file(row: FlashWheels, option: Option, view: View) -> str:
    chosen = interpreter.choose(option, view).interpreter
    assert chosen is not None
    return FILE.format(
        version=row.version,
        cuda=f"cu{numbers(cuda_of(option.torch_variant) or '0')[0]}",
        torch=minor(option.torch.version),
        abi=str(option.torch.cxx11_abi).upper(),
        cp=f"cp{minor(chosen.version).replace('.', '')}",
        machine=view.machine or "x86_64",
    )
