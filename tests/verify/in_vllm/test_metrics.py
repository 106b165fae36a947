"""The metrics of vLLM that alerts, dashboards and the live table ask for, in the installed release."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from vllm.v1.metrics import loggers
from vllm.v1.spec_decode import metrics as spec_decode

from provision.features.monitoring import unit_sets
from provision.phases.serve.onhost.ready import sample

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
