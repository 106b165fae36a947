"""Known security holes of the release, by the severity of their advisories and by what the host does."""

from __future__ import annotations

from collections.abc import Iterator

from provision.catalog.rows.advisories import Advisory, Product
from provision.catalog.versions import release
from provision.phases.plan.advisories import CRITICAL, Exposure, advisories_of, condition_of, is_critical, text_of
from provision.phases.plan.build_option import BuildOption
from provision.phases.plan.family.choices import serving_plan
from provision.phases.plan.host_profile import HostProfile
from provision.phases.plan.rule import Verdict, accept, reject, rule, warn

ACCEPT = "firstlight_accept_advisories"


@rule(
    "No advisory of CVSS 9 or more applies to a vLLM release that the settings do not name; one of a named release, or of torch alone, is reported.",
    reads=(
        "settings.vllm",
        "settings.model",
        "settings.span",
        "settings.vllm_args",
        "settings.accept_advisories",
    ),
    order=910,
)
def evaluate(option: BuildOption, profile: HostProfile) -> Iterator[Verdict]:
    exposure = exposure_in(option, profile)
    if option.release is not None:
        yield from _of("vllm", option.release.version, exposure, profile, named=profile.policy.names_vllm)
    else:
        yield from _of("torch", option.torch.version, exposure, profile, named=True)


def exposure_in(option: BuildOption, profile: HostProfile) -> Exposure:
    """Return what a host does with a candidate."""
    policy, served = profile.policy, profile.served_model
    family = (
        serving_plan(served.shape, served.wanted, option.release.version).flags if served and option.release else ()
    )
    return Exposure(
        serves_vllm=option.release is not None,
        own_model=served is not None,
        inputs=served.shape.inputs if served else (),
        architecture=served.shape.architecture if served else None,
        hosts=policy.span,
        arguments=(*policy.arguments, *family),
    )


def _of(product: Product, version: str, exposure: Exposure, profile: HostProfile, *, named: bool) -> Iterator[Verdict]:
    name = "vLLM" if product == "vllm" else product
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
        text = f"{name} {version} has {text_of(row)}, fixed in {row.fixed}: {_sentence(row)}; {condition_of(row)}"
        if not named:
            yield reject(text, source=row.source, **facts)
        elif row.id in profile.policy.accepted:
            yield accept(f"{text}; {ACCEPT} names it", source=row.source, **facts)
        else:
            yield warn(f"{text}; {ACCEPT} ends this warning", source=row.source, **facts)
    if open_ := [row for row in lesser if row.id not in profile.policy.accepted]:
        yield _lesser(f"{name} {version}", open_)


def _lesser(what: str, rows: list[Advisory]) -> Verdict:
    first, last = f"{text_of(rows[0])}: {_sentence(rows[0])}", max((row.fixed for row in rows), key=release)
    text = f"{what} has {first}; fixed in {last}"
    if len(rows) > 1:
        text = f"{what} has {len(rows)} open advisories below CVSS {CRITICAL:g}, the most severe {first}; {last} fixes all of them"
    return warn(text, source=rows[0].source, advisories=[row.id for row in rows])


def _sentence(row: Advisory) -> str:
    return row.allows[:1].lower() + row.allows[1:].rstrip(".")
