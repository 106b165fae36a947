"""What the metadata, the name and the settings file of a wheel of vLLM or torch say."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from provision.catalog.versions import numbers

_LEGACY = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
"""The glibc of older tags. Source: PEP 600."""
_MAIN_CUDA = re.compile(r"""VLLM_MAIN_CUDA_VERSION: str = ["'](\d+\.\d+)["']""")


def exact_pins(
    requirements: Iterable[str], platform: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str | None]:
    """Return required distributions by name, with the version of an exact pin. Requirements of extras are left out.

    Args:
        requirements: The lines `Requires-Dist` of the metadata.
        platform: Values of dependency markers; without them every marker counts as met.
    """
    found: dict[str, str | None] = {}
    for line in requirements:
        try:
            need = Requirement(line)
        except InvalidRequirement:
            continue
        if need.marker and ("extra" in str(need.marker) or (platform and not need.marker.evaluate(dict(platform)))):
            continue
        exact = [item.version for item in need.specifier if item.operator == "=="]
        found.setdefault(canonicalize_name(need.name), exact[0] if exact else None)
    return found


def oldest_glibc(tags: Iterable[Tag]) -> str:
    """Return the lowest glibc in the tags of a wheel; empty if they name none."""
    found = []
    for tag in tags:
        match = re.match(r"manylinux_(\d+)_(\d+)_", tag.platform)
        found.append(f"{match[1]}.{match[2]}" if match else _LEGACY.get(tag.platform.partition("_")[0], ""))
    return min((glibc for glibc in found if glibc), key=numbers, default="")


def main_cuda(envs: str | None) -> str | None:
    """Return the CUDA release of vLLM's default build, from its file vllm/envs.py; None if that does not name it."""
    named = _MAIN_CUDA.search(envs or "")
    return named[1] if named else None
