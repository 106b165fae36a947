"""Names that the product takes from vLLM, in the installed release: metrics and attention back ends."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.metrics import loggers
from vllm.v1.spec_decode import metrics as spec_decode

from provision.features.monitoring import unit_sets
from provision.phases.serve.onhost.ready import sample
from provision.phases.serve.plugin.firstlight_attention import backend_name

SUFFIX = re.compile(r"_(total|bucket|count|sum)$")
"""What prometheus_client adds to names of counters and histograms."""


def test_vllm_has_every_metric_that_is_asked_for() -> None:
    files = [Path(unit_sets.__file__).with_name(name) for name in ("alerts.yml", "dashboards.toml")]
    files.append(Path(sample.__file__))
    asked = {name for file in files for name in re.findall(r"vllm:[a-z_]+", file.read_text())}
    assert len(asked) > 3
    sources = inspect.getsource(loggers) + inspect.getsource(spec_decode)
    offered = set(re.findall(r'"(vllm:[a-z_]+)"', sources))
    assert {name for name in asked if name not in offered and SUFFIX.sub("", name) not in offered} == set()


@pytest.mark.parametrize("name", ["CPU_ATTN", "ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", "ROCM_ATTN", "TRITON_ATTN"])
def test_a_class_of_attention_has_the_name_of_its_member(name: str) -> None:
    module, _, kind = AttentionBackendEnum[name].value.rpartition(".")
    backend = type(kind, (), {"__module__": module, "get_name": staticmethod(lambda: "FLASH_ATTN")})
    assert backend_name(SimpleNamespace(attn_backend=backend)) == name
