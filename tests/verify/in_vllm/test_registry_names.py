"""The names that the plugin records are those with which this release is asked for a back end."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from provision.phases.serve.plugin.firstlight_attention import backend_name


@pytest.mark.parametrize("name", ["CPU_ATTN", "ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "TRITON_ATTN"])
def test_a_class_has_the_name_of_its_member(name: str) -> None:
    module, _, kind = AttentionBackendEnum[name].value.rpartition(".")
    backend = type(kind, (), {"__module__": module, "get_name": staticmethod(lambda: "FLASH_ATTN")})
    assert backend_name(SimpleNamespace(attn_backend=backend)) == name
