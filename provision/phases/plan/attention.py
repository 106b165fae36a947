"""Which attention back end serves, how this release wants it asked for, and which FlashAttention generation that is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from provision.catalog import catalog
from provision.catalog.rows.attention import Generation, PlatformBackend, Spelling
from provision.catalog.versions import between, numbers
from provision.core.models.stack import AttentionPlan
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import DecidingAttention, HostProfile, Launch

MODELS = {
    "latent": "keep one compressed vector instead of keys and values (MLA)",
    "sparse": "attend to tokens that an index picks",
}


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """`plan` is None when what was asked for cannot be; `why` then says the reason."""

    plan: AttentionPlan | None
    why: str
    extension: str | None = None
    """The FlashAttention extension whose kernels run: fa2, fa3, fa4."""
    source: str | None = None


def choose(option: BuildOption, profile: HostProfile) -> AttentionChoice:
    """The back end for a candidate on a host. The candidate has a vLLM release."""
    assert option.release is not None
    return choose_backend(option.release.version, profile.launch)


@cache
def choose_backend(version: str, launch: Launch) -> AttentionChoice:
    """The back end of a vLLM release for what a class launches."""
    return _choose(version, launch.attention)


def flash_extensions(option: BuildOption, launch: Launch) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """FlashAttention extensions, each with the compute capabilities that use it where a card is alone.

    Evaluation card by card: beside a card that cannot, another one keeps its demands, so that no card ever widens the choice.
    """
    return _flash_extensions(option.release.version, launch) if option.release else ()


@cache
def _flash_extensions(version: str, launch: Launch) -> tuple[tuple[str, tuple[str, ...]], ...]:
    host = launch.attention
    found: dict[str, list[str]] = {}
    for name, capability in host.kinds:
        if capability:
            extension = _choose(version, replace(host, kinds=((name, capability),))).extension
            if extension:
                found.setdefault(extension, []).append(capability)
    return tuple((extension, tuple(capabilities)) for extension, capabilities in found.items())


@cache
def _choose(version: str, host: DecidingAttention) -> AttentionChoice:
    can, refusals = _possible(version, host)
    if host.requested not in {"auto", "flash"}:
        return _requested(version, host, can, refusals)
    flash = next((row for row in _of(host.platform, host.model, version) if row.flash), None)
    served = next((row for row in can if row.flash), None)
    if host.requested == "flash":
        if served is None:
            why = refusals.get(flash.backend) if flash else None
            return AttentionChoice(None, why or f"vLLM {version} has no flash kernels for {_whom(host)}")
        return _plan(version, served, host, f"flash kernels, which every card and vLLM {version} can")
    unasked = [row for row in can if not row.only_requested]
    reason = refusals.get(flash.backend) if flash else None
    if host.flash_attn == "none" and any(row.flash for row in unasked):
        unasked = [row for row in unasked if not row.flash]
        reason = "flash kernels are switched off (flash_attn: none)"
    if not unasked:
        why = "; ".join(refusals.values()) or "none is known"
        return AttentionChoice(None, f"vLLM {version} has no attention back end for {_whom(host)}: {why}")
    best = unasked[0]
    able = f"every card and vLLM {version} can" if host.kinds else f"what vLLM {version} serves with on {host.platform}"
    because = f"{reason}: {best.backend} serves" if reason and not best.flash else able
    return _plan(version, best, host, because)


def _whom(host: DecidingAttention) -> str:
    """What a back end is looked for, in words."""
    return f"models that {MODELS[host.model]}, on {host.platform}" if host.model in MODELS else host.platform


def _requested(
    version: str, host: DecidingAttention, can: list[PlatformBackend], refusals: dict[str, str]
) -> AttentionChoice:
    for row in can:
        if row.backend == host.requested:
            where = " on every card" if host.kinds else ""
            return _plan(version, row, host, f"asked for, and vLLM {version} can{where}")
    names = [row.backend for row in can]
    near = difflib.get_close_matches(host.requested, names, n=1)
    meant = f"; did you mean `{near[0]}`?" if near else ""
    other = f"no back end `{host.requested}` is known of vLLM {version} for {_whom(host)} ({', '.join(names) or 'none'}){meant}"
    return AttentionChoice(None, refusals.get(host.requested) or other)


def _possible(version: str, host: DecidingAttention) -> tuple[list[PlatformBackend], dict[str, str]]:
    """Back ends that every card and the model can, best first, and why others cannot."""
    can, refusals = [], {}
    for row in _of(host.platform, host.model, version):
        if short := _short_of(row, host) or _odd_model(row, host):
            refusals[row.backend] = short
        else:
            can.append(row)
    return can, {name: why for name, why in refusals.items() if name not in {row.backend for row in can}}


def _short_of(row: PlatformBackend, host: DecidingAttention) -> str | None:
    """What a card lacks."""
    for name, capability in host.kinds:
        if capability is None:
            continue
        if row.minimum and numbers(capability) < numbers(row.minimum):
            return f"{row.backend} needs compute capability {row.minimum}, {name} has {capability}"
        if row.majors and numbers(capability)[0] not in row.majors:
            majors = " and ".join(f"{major}.x" for major in row.majors)
            return f"{row.backend} runs on compute capability {majors}, {name} has {capability}"
        if host.sinks and row.sinks and numbers(capability)[0] not in row.sinks:
            return f"{row.backend} takes no attention sinks, which the model has, on {name} ({capability})"
    return None


def _odd_model(row: PlatformBackend, host: DecidingAttention) -> str | None:
    """What of the model or its numbers it does not take."""
    if host.dtype != "auto" and row.dtypes and host.dtype not in row.dtypes:
        return f"{row.backend} does not compute in {host.dtype}"
    size = host.head_size
    if size is not None and (size % row.head_step or (row.most_head_size and size > row.most_head_size)):
        return f"{row.backend} takes no heads of size {size}"
    return None


@cache
def _of(platform: str, model: str, version: str) -> tuple[PlatformBackend, ...]:
    return tuple(
        row
        for row in catalog().platform_backends
        if (row.platform, row.model) == (platform, model) and between(version, row.since, row.until)
    )


def _plan(version: str, row: PlatformBackend, host: DecidingAttention, why: str) -> AttentionChoice:
    spelled = spelling(version, row.backend)
    # Compressed models run FlashAttention over their prompts, whatever decodes.
    runs_flash = host.platform == "cuda" and (row.flash or host.model == "latent")
    found = {generation(version, capability) for _, capability in host.kinds if capability} if runs_flash else set()
    flash = next(iter(found)) if len(found) == 1 else None
    plan = AttentionPlan(
        backend=row.backend,
        flag=spelled.flag if spelled else None,
        ask=spelled.ask if spelled else "option",
        generation=flash.generation if flash and row.flash else None,
    )
    sources = [source.source for source in (flash, spelled) if source]
    return AttentionChoice(
        plan, why, extension=flash.extension if flash else None, source=sources[0] if sources else None
    )


@cache
def spelling(version: str, backend: str) -> Spelling | None:
    """How a vLLM release wants a back end to be named and asked for."""
    rows: Iterable[Spelling] = (row for row in catalog().spellings if row.backend == backend)
    return next((row for row in rows if between(version, row.since, row.until)), None)


@cache
def generation(version: str, compute_capability: str) -> Generation | None:
    """The FlashAttention generation that a release uses on a card; the first row that fits holds."""
    major = numbers(compute_capability)[0]
    for row in catalog().generations:
        if between(version, row.since, row.until) and row.major in {None, major}:
            return row
    return None
