"""The attention back end of a candidate, its spelling in the release, and the FlashAttention generation."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

from provision.catalog import catalog
from provision.catalog.rows.builds import Generation, PlatformBackend, Spelling
from provision.catalog.versions import between, numbers
from provision.core.models.settings import value_of
from provision.core.models.stack import AttentionPlan
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Choice

MODELS = {
    "latent": "keep one compressed vector instead of keys and values (MLA)",
    "sparse": "attend to tokens that an index selects",
}


@dataclass(frozen=True, eq=False)
class AttentionChoice(Choice[AttentionPlan | None]):
    """The choice of a back end. `plan` is None if none is possible."""

    extension: str | None = None
    """The FlashAttention extension that runs: fa2, fa3, fa4."""


def choose(option: BuildOption, profile: HostProfile) -> AttentionChoice:
    """Return the back end of a candidate, which must have a vLLM release."""
    assert option.release is not None
    version = option.release.version
    possible, refusals = _possible(version, profile)
    if profile.policy.attention not in {"auto", "flash"}:
        return _requested(version, profile, possible, refusals)
    flash = next((row for row in _of(profile.platform, profile.model_kind, version) if row.flash), None)
    served = next((row for row in possible if row.flash), None)
    if profile.policy.attention == "flash":
        if served is None:
            why = refusals.get(flash.backend) if flash else None
            return AttentionChoice(None, why or f"vLLM {version} has no flash kernels for {_whom(profile)}")
        whose = f" of {served.kernels}" if served.kernels else ""
        before = "" if flash and served.backend == flash.backend else "".join(f"; {why}" for why in refusals.values())
        return _plan(
            version, served, profile, f"flash kernels{whose}, which every GPU and vLLM {version} support{before}"
        )
    unasked = [row for row in possible if not row.only_requested] or possible
    reason = refusals.get(flash.backend) if flash and not flash.only_requested else None
    if profile.policy.flash_attn == "none" and any(row.flash for row in unasked):
        unasked = [row for row in unasked if not row.flash]
        reason = "`--flash-attn none` disables flash kernels"
    if not unasked:
        why = "; ".join(refusals.values()) or "none is known"
        return AttentionChoice(None, f"vLLM {version} has no attention back end for {_whom(profile)}: {why}")
    best = unasked[0]
    because = f"the back end of vLLM {version} on {profile.platform}"
    if reason and not best.flash:
        because = f"{reason}; {best.backend} serves instead"
    elif profile.kinds:
        because = f"every GPU and vLLM {version} support it"
    return _plan(version, best, profile, because)


def flash_extensions(option: BuildOption, profile: HostProfile) -> dict[str, list[str]]:
    """Return the FlashAttention extensions, each with the compute capabilities that use it.

    Each card is evaluated alone: a card without flash kernels must not lift the demands of another.
    """
    found: dict[str, list[str]] = {}
    cards = {(card.name, card.compute_capability): card for card in profile.cards}
    for (_, capability), card in cards.items():
        if capability and option.release:
            alone = replace(profile, cards=(card,)) if len(cards) > 1 else profile
            extension = choose(option, alone).extension
            if extension:
                found.setdefault(extension, []).append(capability)
    return found


def _whom(profile: HostProfile) -> str:
    """Return what the back end is for, as messages call it."""
    models = MODELS.get(profile.model_kind)
    return f"models that {models}, on {profile.platform}" if models else profile.platform


def _requested(
    version: str, profile: HostProfile, possible: list[PlatformBackend], refusals: dict[str, str]
) -> AttentionChoice:
    for row in possible:
        if row.backend == profile.policy.attention:
            where = " on every GPU" if profile.kinds else ""
            return _plan(version, row, profile, f"requested, and vLLM {version} supports it{where}")
    names = [row.backend for row in possible]
    near = difflib.get_close_matches(profile.policy.attention, names, n=1)
    meant = f"; did you mean `{near[0]}`?" if near else ""
    other = f"vLLM {version} has no back end `{profile.policy.attention}` for {_whom(profile)} (it has {', '.join(names) or 'none'}){meant}"
    return AttentionChoice(None, refusals.get(profile.policy.attention) or other)


def _possible(version: str, profile: HostProfile) -> tuple[list[PlatformBackend], dict[str, str]]:
    """Return the back ends that every card and the model support, best first, and the reasons against the others."""
    possible, refusals = [], {}
    for row in _of(profile.platform, profile.model_kind, version):
        if short := _short_of(row, profile):
            refusals[row.backend] = short
        elif odd := next(_odd_model(row, profile), None):
            on = " and ".join(dict.fromkeys(card.name for card in profile.cards)) or profile.platform
            refusals[row.backend] = f"{row.backend} does not support {odd} on {on}"
        else:
            possible.append(row)
    return possible, {name: why for name, why in refusals.items() if name not in {row.backend for row in possible}}


def _short_of(row: PlatformBackend, profile: HostProfile) -> str | None:
    """Return what a card lacks for a back end."""
    for name, capability in profile.kinds:
        if capability is None:
            continue
        if row.minimum and numbers(capability) < numbers(row.minimum):
            return f"{row.backend} needs compute capability {row.minimum}, {name} has {capability}"
        if row.majors and numbers(capability)[0] not in row.majors:
            majors = " and ".join(f"{major}.x" for major in row.majors)
            return f"{row.backend} runs on compute capability {majors}, {name} has {capability}"
    for card in profile.cards:
        if row.gfx and card.gfx and card.gfx not in row.gfx:
            return f"{row.backend} runs on {' and '.join(row.gfx)}, {card.name} has {card.gfx}"
    return None


def _odd_model(row: PlatformBackend, profile: HostProfile) -> Iterator[str]:
    """Yield what of the model, its number format or its cache a back end does not support."""
    shape = profile.served_model.shape if profile.served_model else None
    requested = value_of(profile.policy.arguments, "--kv-cache-dtype") or "auto"
    cache_type = shape.cache_type(requested) if shape else requested
    if row.dtypes and profile.policy.dtype not in {"auto", *row.dtypes}:
        yield profile.policy.dtype
    if row.caches and cache_type not in row.caches:
        yield f"a KV cache of type {cache_type}"
    if shape and shape.sinks and row.without_sinks:
        yield "the model's attention sinks"
    if shape and shape.prefix and row.without_prefix:
        yield "images whose tokens see all of the image"
    size = shape.largest_head if shape and shape.kind == "usual" else 0
    fits = size % row.head_step == 0 and size <= (row.most_head_size or size)
    if size and not (fits and size in (row.head_sizes or (size,))):
        yield f"heads of size {size}"


@cache
def _of(platform: str, model: str, version: str) -> tuple[PlatformBackend, ...]:
    return tuple(
        row
        for row in catalog().platform_backends
        if (row.platform, row.model) == (platform, model) and between(version, row.since, row.until)
    )


def _plan(version: str, row: PlatformBackend, profile: HostProfile, why: str) -> AttentionChoice:
    spelled = spelling(version, row.backend)
    # MLA models run FlashAttention over their prompts, whichever back end decodes.
    runs_flash = profile.platform == "cuda" and (row.flash or profile.model_kind == "latent")
    found = {generation(version, capability) for _, capability in profile.kinds if capability} if runs_flash else set()
    flash = next(iter(found)) if len(found) == 1 else None
    plan = AttentionPlan(
        backend=row.backend,
        flag=spelled.flag if spelled else None,
        ask=spelled.ask if spelled else "option",
        generation=flash.generation if flash and row.flash and _is_certain(flash, profile) else None,
        environment=row.environment or {},
    )
    source = next((known.source for known in (flash, spelled) if known), None)
    return AttentionChoice(plan, why, extension=flash.extension if flash else None, source=source)


def _is_certain(flash: Generation, profile: HostProfile) -> bool:
    """Return whether vLLM uses this generation for the model too, and not an older one."""
    if profile.served_model is None:
        return True
    shape = profile.served_model.shape
    fits = flash.most_head_size is None or shape.largest_head <= flash.most_head_size
    return fits and (flash.with_alibi or not shape.alibi)


def spelling(version: str, backend: str) -> Spelling | None:
    """Return the spelling of a back end in a vLLM release."""
    rows = (row for row in catalog().spellings if row.backend == backend)
    return next((row for row in rows if between(version, row.since, row.until)), None)


def generation(version: str, compute_capability: str) -> Generation | None:
    """Return the FlashAttention generation that a release uses on a card; the first matching row applies."""
    major = numbers(compute_capability)[0]
    rows = (row for row in catalog().generations if row.major in {None, major})
    return next((row for row in rows if between(version, row.since, row.until)), None)
