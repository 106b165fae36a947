"""Helm renders the chart `vllm-stack` with exported values, where both are at hand: neither is in a package index of Python.

FIRSTLIGHT_TEST_CHART=production-stack/helm ./firstlight test tests/features/export/test_chart.py
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from provision.features.export.formats import files_of
from provision.features.export.workloads import table
from tests.features.export.checking import read, refuse
from tests.features.export.fleet import DIGEST, SMALL, host, workloads_of

HELM = shutil.which("helm")
FOLDER = os.environ.get("FIRSTLIGHT_TEST_CHART", "")

pytestmark = pytest.mark.skipif(
    not (HELM and FOLDER), reason="helm, or a chart that FIRSTLIGHT_TEST_CHART names, is absent: NOT RENDERED"
)


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """The chart without the charts that it depends on: its own values leave these out."""
    folder = tmp_path / "chart"
    shutil.copytree(FOLDER, folder)
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    assert f"{about['name']} {about['version']}" in table()["format"]["production-stack"]["title"]
    del about["dependencies"]
    (folder / "Chart.yaml").write_text(yaml.safe_dump(about))
    (folder / "Chart.lock").unlink()
    return folder


def test_rendered_pods_run_vllm_with_the_arguments_of_the_hosts(chart: Path, tmp_path: Path) -> None:
    hosts = [host("a", tensor_parallel=2, max_model_len=4096, hf_token_file="/token", tool_parser="hermes")]
    files = files_of("production-stack", workloads_of(hosts), DIGEST)
    (tmp_path / "values.yaml").write_text(files["values.yaml"])
    command = [str(HELM), "template", "fleet", str(chart), "-f", str(tmp_path / "values.yaml")]
    rendered = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    documents = [document for document in read(rendered) if document]
    refuse(documents)
    pods: list[Any] = [
        document["spec"]["template"]["spec"]
        for document in documents
        if document["kind"] == "Deployment" and "llama" in document["metadata"]["name"]
    ]
    [container] = pods[0]["containers"]
    assert container["command"][:3] == ["vllm", "serve", SMALL]
    words = " ".join(container["command"])
    for asked in ("--tensor-parallel-size 2", "--max-model-len 4096", "--tool-call-parser hermes"):
        assert asked in words
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert {"VLLM_API_KEY", "HF_TOKEN"} <= {variable["name"] for variable in container["env"]}
