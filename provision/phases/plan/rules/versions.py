"""The version combination: its parts, and what is known of it."""

from collections.abc import Iterator
from typing import Any

from provision.catalog import catalog
from provision.catalog.rows.builds import Product
from provision.catalog.versions import cuda_of, numbers, release
from provision.phases.plan import driver
from provision.phases.plan.advisories import (
    CRITICAL,
    Exposure,
    advisories_of,
    condition_of,
    is_critical,
    sentence_of,
    text_of,
)
from provision.phases.plan.build_option import BuildOption, native_floor, proof, runs_natively
from provision.phases.plan.family.choices import serving_plan
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule, warn


@rule(order=140)
def cuda_pair(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """vLLM and torch have the same CUDA major; the same minor is preferred."""
    if option.build is None or profile.platform != "cuda":
        return
    ours, theirs = option.build.variant, option.torch_variant
    facts: dict[str, Any] = {"vllm": ours, "torch": theirs, "driver": profile.driver}
    if numbers(cuda_of(ours) or "0")[0] != numbers(cuda_of(theirs) or "0")[0]:
        text = (
            f"vLLM for {ours} needs a torch of the same CUDA major; the host has torch {option.torch.version}+{theirs}"
        )
        yield reject(text, source=option.torch.source, **facts)
        return
    if ours == theirs:
        yield accept(f"vLLM and torch {option.torch.version} are both {ours}", source=option.torch.source, **facts)
        return
    why = "torch has no variant of the same CUDA minor for every GPU"
    if profile.policy.torch == "existing":
        why = "it is the host's torch"
    if profile.driver and not runs_natively(profile.driver, ours) and runs_natively(profile.driver, theirs):
        why = f"driver {profile.driver} runs {theirs} without compatibility mode; {ours} needs {native_floor(cuda_of(ours) or '')} for that"
    yield accept(
        f"vLLM for {ours} is combined with torch {option.torch.version}+{theirs} of the same CUDA major: {why}",
        source=option.torch.source,
        **facts,
    )


@rule(order=290)
def imports(option: BuildOption, _: HostProfile) -> Iterator[Verdict]:
    """The vLLM version can be installed and imported."""
    version = option.release.version if option.release else "0"
    for row in catalog().broken_releases:
        if numbers(row.since) <= numbers(version) < numbers(row.cured):
            yield reject(f"vLLM {version} cannot be {row.why}; {row.cured} can", source=row.source)


HOW = {
    "loaded": "this combination was installed and loaded on {on}; it has not served on a GPU yet",
    "served": "this combination served a model with checked answers on {on}",
}


@rule(order=900)
def proven(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """The version combination was tested."""
    if option.release is None:
        return
    row = proof(option, profile.machine)
    if row is None:
        yield warn(f"this combination is untested on {profile.machine or 'x86_64'}: it was never installed there")
    else:
        yield accept(HOW[row.how].format(on=row.on), source=row.source)


ACCEPT = "firstlight_accept_advisories"


@rule(order=910)
def advisories(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """No advisory of CVSS 9 or more applies to a vLLM version that the settings do not name; one of a named version, or of torch alone, is reported."""
    policy, served = profile.policy, profile.served_model
    plan = serving_plan(served.shape, served.request, option.release.version) if served and option.release else None
    exposure = Exposure(
        serves_vllm=option.release is not None,
        own_model=served is not None,
        inputs=served.shape.inputs if served else (),
        architecture=served.shape.architecture if served else None,
        hosts=policy.span,
        arguments=(*policy.arguments, *(plan.flags if plan else ())),
    )
    if option.release is not None:
        yield from _of("vllm", option.release.version, exposure, profile, named=policy.vllm.startswith("=="))
    else:
        yield from _of("torch", option.torch.version, exposure, profile, named=True)


@rule(order=272)
def driver_advisories(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    """A driver below the vendor's fixed release of its branch is reported."""
    plan = driver.choose(option, profile)
    if plan is None or plan.version is None:
        return
    stays = plan.action == "keep" and profile.policy.driver != "upgrade" and not profile.foreign_driver
    remedy = "; `--driver upgrade` replaces it" if stays and driver.is_ours(profile) else ""
    yield from _of("nvidia-driver", plan.version, Exposure(), profile, named=True, remedy=remedy)


def _of(
    product: Product, version: str, exposure: Exposure, profile: HostProfile, *, named: bool, remedy: str = ""
) -> Iterator[Verdict]:
    name = {"vllm": "vLLM", "nvidia-driver": "driver"}.get(product, product)
    lesser = []
    for row in advisories_of(product, version):
        missing = exposure.missing(row)
        if missing is None and not is_critical(row):
            lesser.append(row)
        if not is_critical(row):
            continue
        facts = {"advisory": row.id, "severity": row.severity, product: version, "fixed": row.fixed}
        if missing is not None:
            yield accept(f"{text_of(row)} of {name} {version} does not apply: {missing}", source=row.source, **facts)
            continue
        text = f"{name} {version} has {text_of(row)}, fixed in {row.fixed}: {sentence_of(row)}; {condition_of(row)}"
        if not named:
            yield reject(text, source=row.source, **facts)
        elif row.id in profile.policy.accepted:
            yield accept(f"{text}; {ACCEPT} names it", source=row.source, **facts)
        else:
            yield warn(f"{text}; {ACCEPT} ends this warning", source=row.source, **facts)
    if open_ := [row for row in lesser if row.id not in profile.policy.accepted]:
        first, last = f"{text_of(open_[0])}: {sentence_of(open_[0])}", max((row.fixed for row in open_), key=release)
        text = f"{name} {version} has {first}; fixed in {last}"
        if len(open_) > 1:
            text = f"{name} {version} has {len(open_)} open advisories below CVSS {CRITICAL:g}, the most severe {first}; {last} fixes all of them"
        yield warn(f"{text}{remedy}", source=open_[0].source, advisories=[row.id for row in open_])
