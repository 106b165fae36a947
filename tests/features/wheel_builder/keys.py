"""Build keys and inspected wheels for tests."""

from __future__ import annotations

from typing import Any

from provision.core.models.stack import FlashAttnKey
from provision.features.wheel_builder.recipes import BuildKey
from provision.phases.stage.extension import Extension, Library

CHECK_FAIL = "_ZN3c106detail14torchCheckFailEPKcS2_jRKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"


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


def make_library(**changes: Any) -> Library:
    values: dict[str, Any] = {
        "machine": "x86_64",
        "needed": frozenset({"libcudart.so.12", "libc10.so", "libc.so.6"}),
        "torch_symbols": frozenset({CHECK_FAIL}),
        "glibc": "2.32",
        "codes": frozenset({"80", "90"}),
    }
    return Library(**(values | changes))


def make_extension(library: Library | None = None, **changes: Any) -> Extension:
    values: dict[str, Any] = {
        "name": "flash-attn",
        "version": "2.8.3+cu12torch2.8cxx11abitrue",
        "own_version": "2.8.3",
        "pythons": frozenset({"cp312"}),
        "platforms": frozenset({"linux_x86_64"}),
        "requires": ("torch", "einops"),
        "requires_python": ">=3.9",
        "libraries": (("flash_attn_2_cuda.so", library or make_library()),),
    }
    return Extension(**(values | changes))
