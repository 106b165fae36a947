"""What is planned for one host, by its facts or a --what-if line, and what the plan says of it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from provision.core.models.facts import HostFacts
from provision.core.models.settings import Settings
from provision.core.models.stack import Plan, Resolution, Stack
from provision.phases.plan import choose_stacks
from provision.phases.plan.fit.shape import Shape, shape_of
from provision.phases.plan.fit.weights import counted
from provision.phases.plan.what_if import parse_what_if

HOST = "gpu={} driver=580.65.06 os=ubuntu-24.04 python=3.12 arch=x86_64 cpu=avx512 glibc=2.39 ram=256 disk=900 container=no"
"""A host with these GPUs."""
CPU = "gpu=none os=debian-12 python=3.11 arch=x86_64 cpu=avx512 glibc=2.36 ram={} disk=200 container=no"
"""A host without GPUs, with that much memory."""


def model_of(config: dict[str, Any], name: str = "org/model") -> dict[str, Shape]:
    """Return the shape of a model with this config.json and 1 GiB of weights, by its name."""
    return {name: shape_of(config, counted({"BF16": 1 << 30}, "a test"), model=name)}


def plan_of(
    host: str | HostFacts,
    shapes: Mapping[str, Shape] = MappingProxyType({}),
    /,
    *,
    become: bool = False,
    **settings: Any,
) -> Plan:
    """Return the plan of a host, which serves the first of the models with these shapes."""
    facts = parse_what_if(host) if isinstance(host, str) else host
    model = {"model": next(iter(shapes))} if shapes else {}
    wanted = Settings.model_validate(model | settings)
    return choose_stacks({"h": facts}, {"h": wanted}, become={"h"} if become else (), shapes=shapes)


def resolve(
    host: str | HostFacts, shapes: Mapping[str, Shape] = MappingProxyType({}), /, **settings: Any
) -> Resolution:
    """Return what `plan_of` has for the host."""
    return plan_of(host, shapes, **settings).classes[0]


def stack_of(found: Resolution) -> Stack:
    assert found.stack, found.reasons[0].text
    return found.stack


def release_of(found: Resolution) -> str:
    """Return the release of vLLM that is chosen."""
    vllm = stack_of(found).vllm
    assert vllm
    return vllm.version


def texts_of(found: Resolution, rule: str, verdict: str | None = None) -> list[str]:
    """Return what a rule says, or what it says with this verdict."""
    return [reason.text for reason in found.reasons if reason.rule == rule and verdict in {None, reason.verdict}]


def refusing(found: Resolution) -> list[str]:
    """Return the rules that refuse something."""
    return [reason.rule for reason in found.reasons if reason.verdict == "reject"]
