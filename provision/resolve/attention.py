"""Which attention back end serves, how this release wants it asked for, and which FlashAttention generation that is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

from provision.catalog import catalog
from provision.catalog.attention_rows import Generation, PlatformBackend, Spelling
from provision.catalog.versions import between, numbers
from provision.models.stack import AttentionPlan
from provision.resolve.option import Option
from provision.resolve.view import DecidingAttention, Launch, View

FLASH = "FLASH_ATTN"


@dataclass(frozen=True, slots=True)
class Chosen:
    """`plan` is None when what was asked for cannot be; `why` then says the reason."""

    plan: AttentionPlan | None
    why: str
    extension: str | None = None
    """The FlashAttention extension whose kernels run: fa2, fa3, fa4."""
    source: str | None = None


def choose(option: Option, view: View) -> Chosen:
    """The back end for a candidate on a host. The candidate has a vLLM release."""
    assert option.release is not None
    return chosen(option.release.version, view.launch)


@cache
def chosen(version: str, launch: Launch) -> Chosen:
    """The back end of a vLLM release for what a class launches."""
    return _choose(version, launch.attention)


def flash_extensions(option: Option, launch: Launch) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """FlashAttention extensions, each with the compute capabilities that use it where a card is alone.

    Judged card by card: beside a card that cannot, another one keeps its demands, so that no card ever widens the choice.
    """
    return _flash_extensions(option.release.version, launch) if option.release else ()


@cache
def _flash_extensions(version: str, launch: Launch) -> tuple[tuple[str, tuple[str, ...]], ...]:
    host = launch.attention
    found: dict[str, list[str]] = {}
    for name, capability in host.kinds:
        if capability:
            extension = _choose(version, replace(host, kinds=((name, capability),), used=(capability,))).extension
            if extension:
                found.setdefault(extension, []).append(capability)
    return tuple((extension, tuple(capabilities)) for extension, capabilities in found.items())


@cache
def _choose(version: str, host: DecidingAttention) -> Chosen:
    can, refusals = _possible(version, host)
    names = [row.backend for row in can]
    if host.asked not in {"auto", "flash"}:
        return _asked(version, host, names, refusals)
    if host.asked == "flash" and FLASH not in names:
        return Chosen(None, refusals.get(FLASH) or f"vLLM {version} has no flash kernels for {host.platform}")
    unasked = [row.backend for row in can if not row.only_asked]
    reason = refusals.get(FLASH)
    if host.flash_attn == "none" and FLASH in unasked:
        unasked.remove(FLASH)
        reason = "flash kernels are switched off (flash_attn: none)"
    if not unasked:
        why = "; ".join(refusals.values()) or "none is known"
        return Chosen(None, f"vLLM {version} has no attention back end for this host: {why}")
    best = unasked[0]
    because = f"{reason}: {best} serves" if reason and best != FLASH else f"every card and vLLM {version} can"
    return _plan(version, best, host, because)


def _asked(version: str, host: DecidingAttention, names: list[str], refusals: dict[str, str]) -> Chosen:
    if host.asked in names:
        return _plan(version, host.asked, host, f"asked for, and vLLM {version} can on every card")
    has = f"vLLM {version} has no back end `{host.asked}` for {host.platform} (it has {', '.join(names)})"
    return Chosen(None, refusals.get(host.asked) or has)


def _possible(version: str, host: DecidingAttention) -> tuple[list[PlatformBackend], dict[str, str]]:
    """Back ends that every card can, best first, and why others cannot."""
    can, refusals = [], {}
    for row in _of(host.platform, version):
        short = _short_of(row, host)
        if short:
            refusals[row.backend] = short
        elif host.dtype != "auto" and row.dtypes and host.dtype not in row.dtypes:
            refusals[row.backend] = f"{row.backend} does not compute in {host.dtype}"
        else:
            can.append(row)
    return can, refusals


def _short_of(row: PlatformBackend, host: DecidingAttention) -> str | None:
    if row.minimum is None:
        return None
    for name, capability in host.kinds:
        if capability and numbers(capability) < numbers(row.minimum):
            return f"{row.backend} needs compute capability {row.minimum}, {name} has {capability}"
    return None


@cache
def _of(platform: str, version: str) -> tuple[PlatformBackend, ...]:
    return tuple(
        row
        for row in catalog().platform_backends
        if row.platform == platform and between(version, row.since, row.until)
    )


def _plan(version: str, backend: str, host: DecidingAttention, why: str) -> Chosen:
    spelled = spelling(version, backend)
    rows = (
        {generation(version, capability) for capability in host.used}
        if backend == FLASH and host.platform == "cuda"
        else set()
    )
    row = next(iter(rows)) if len(rows) == 1 else None
    plan = AttentionPlan(
        backend=backend,
        flag=spelled.flag if spelled else None,
        ask=spelled.ask if spelled else "option",
        generation=row.generation if row else None,
    )
    sources = [found.source for found in (row, spelled) if found]
    return Chosen(plan, why, extension=row.extension if row else None, source=sources[0] if sources else None)


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
