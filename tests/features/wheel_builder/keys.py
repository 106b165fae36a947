"""Build keys for tests."""

from typing import Any

from provision.core.models.stack import FlashAttnKey
from provision.features.wheel_builder.recipes import BuildKey


def make_key(name: str = "flash-attn", version: str = "2.8.3", **changes: Any) -> BuildKey:
    built_for = FlashAttnKey(
        cuda_major=12,
        rocm=None,
        torch="2.8",
        cxx11_abi=True,
        python="3.12",
        machine="x86_64",
        glibc="2.35",
        capabilities=("9.0",),
    )
    return BuildKey(name=name, version=version, built_for=built_for.model_copy(update=changes))
